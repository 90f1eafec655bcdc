import { HeadraceError } from '../../shared/errors.ts'
import { blocksOf, type Plan, type Span, spanTokens } from '../../shared/plan.ts'
import type { LayerRange, RunWorker } from '../../shared/protocol/control.ts'
import { joined } from '../planning/repair.ts'

/**
 * What one worker computes of a run: by the plan, or to make up for another part. `id` is the name that its messages
 * bear. Of the same name there is at most one part of a worker.
 */
export interface Part {
  readonly id: string
  readonly by: RunWorker
  readonly layers: LayerRange
  /** When it was assigned. */
  readonly startedAt: number
  /** Layers that it has finished. */
  finishedLayers: number
  state: 'computing' | 'finished' | 'lost'
}

export const partOf = (id: string, by: RunWorker, layers: LayerRange, startedAt: number): Part => ({
  id,
  by,
  layers,
  startedAt,
  finishedLayers: 0,
  state: 'computing',
})

export const tokensOfPart = ({ by }: Part): number => spanTokens(by.spans)

/**
 * Who keeps a run from getting on, if none of its workers says anything: the one that is the least far, of those equally
 * far the first, because later ones wait for it.
 */
export function laggard(parts: readonly Part[]): Part | undefined {
  return parts
    .filter(({ state }) => state === 'computing')
    .reduce<Part | undefined>(
      (last, part) => (last === undefined || part.finishedLayers < last.finishedLayers ? part : last),
      undefined,
    )
}

/** Who has computed all it had to, as it said, and is not done: what it has does not get through to the decode node. */
export const stuck = (parts: readonly Part[]): Part | undefined =>
  parts.find(({ state, finishedLayers, layers }) => state === 'computing' && finishedLayers >= layers.to)

/** Below this a part is not worth the second look. */
const LEAST_LATE_SECONDS = 5
/** Several runs, or the hour, may have a worker take this many times what was predicted. */
const LATE = 6

/**
 * Whether a part that waits for nobody is so much slower than predicted that to compute all of it again elsewhere, at
 * twice the predicted time, ends sooner than to wait for it. `predictedSeconds` is for the whole part.
 */
export function isLate({ startedAt, finishedLayers, layers }: Part, now: number, predictedSeconds: number): boolean {
  const taken = now - startedAt
  const pace = taken / (finishedLayers + 1)
  const tooSlow = pace > (LATE * predictedSeconds) / layers.to
  return taken > LEAST_LATE_SECONDS && tooSlow && (layers.to - finishedLayers) * pace > 2 * predictedSeconds
}

/** What is missing of a part, as a decode node tells it: of each block the first layer. */
export interface Gap extends Span {
  readonly layer: number
}

/** A decode node may say anything: what is no block of the plan would become millions of them. Throws `frame_bad_schema`. */
export function checkedGap(gap: Gap, { blockTokens, promptTokens }: Plan): Gap {
  const { start, end, layer } = gap
  if (start < 0 || end <= start || end - start > blockTokens || end > promptTokens || layer < 0)
    throw new HeadraceError('frame_bad_schema', `positions ${start} to ${end} of layer ${layer} are no block`)
  return gap
}

/** The gaps as spans of whole blocks, and the layers that have to be made. */
export function gapsOf(
  gaps: readonly Gap[],
  { layers }: Part,
  blockTokens: number,
): { spans: Span[]; layers: LayerRange } {
  const from = gaps.reduce((least, { layer }) => Math.min(least, layer), layers.to - 1)
  const blocks = gaps.toSorted((a, b) => a.start - b.start)
  return { spans: joined(blocks, blockTokens), layers: { from, to: layers.to } }
}

/** All blocks of others that somebody needs who computes `spans`: those before its last position. */
export function prefixOf(plan: Plan, spans: readonly Span[]): Span[] {
  const end = spans.reduce((last, span) => Math.max(last, span.end), 0)
  const own = new Set(blocksOf(spans, plan.blockTokens).map(({ start }) => start))
  return plan.workers
    .flatMap((worker) => worker.spans)
    .toSorted((a, b) => a.start - b.start)
    .flatMap((span) => {
      const needed = blocksOf([span], plan.blockTokens).filter((block) => block.start < end && !own.has(block.start))
      return joined(needed, plan.blockTokens)
    })
}
