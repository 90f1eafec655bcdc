import { HeadraceError } from '../../shared/errors.ts'
import type { ModelShape } from '../../shared/model-shape.ts'
import { type Span, sourceRank, spanTokens } from '../../shared/plan.ts'
import type { DecodeAssignment, LayerRange, PrefillAssignment, Repair } from '../../shared/protocol/control.ts'
import type { HeldTicket } from '../../shared/protocol/tickets.ts'

/**
 * What the schema of a command cannot say, because it depends on the model or on another field. After these checks nothing
 * that a run allocates is much larger than a prompt that the model can take, and nothing that it is to use is missing: whoever
 * speaks for the coordinator cannot bring a worker down with a few bytes. All throw `frame_bad_schema`, or
 * `ticket_refused` if the coordinator gave no ticket for a source: then the run has no business there.
 */

type Bounds = Pick<ModelShape, 'layers' | 'contextLength'>

/** Rotations go on beyond the context length, some on purpose: programs that drive runs themselves may, with a short one. */
const LEAST_BOUND = 2 ** 16
const mostPositions = ({ contextLength }: Bounds): number => Math.max(contextLength, LEAST_BOUND)

/** @param tokens that came with it */
export function checkPrefill(of: PrefillAssignment, tokens: number, shape: Bounds): void {
  const { strategy, rank, workers, layers, promptTokens, tickets } = of
  const own = workers[rank]
  if (own === undefined) throw bad(`rank ${rank} of ${workers.length} workers`)
  checkPrompt(promptTokens, workers, shape)
  checkLayers(layers, shape)
  const owed = spanTokens(own.spans)
  if (tokens !== owed) throw bad(`${tokens} tokens for spans of ${owed}`)
  const source = sourceRank(strategy, rank, workers.length)
  if (source !== undefined) checkTickets([workers[source]!.worker], tickets)
}

/** The tokens that came with it are counted where they are used. */
export function checkDecode({ promptTokens, maxTokens, workers, tickets }: DecodeAssignment, shape: Bounds): void {
  // The last token that is sampled is never computed, so it needs no position.
  checkPrompt(promptTokens + maxTokens - 1, workers, shape)
  const sources = workers.map(({ worker }) => worker)
  if (new Set(sources).size < sources.length) throw bad('a worker has two parts')
  checkTickets(sources, tickets)
}

export function checkRepair({ by, layers }: Repair, shape: Bounds): void {
  checkPrompt(mostPositions(shape), [by], shape)
  checkLayers(layers, shape)
}

/** No position belongs to two, and none is beyond the prompt. */
function checkPrompt(positions: number, makers: readonly { readonly spans: readonly Span[] }[], shape: Bounds): void {
  const most = mostPositions(shape)
  if (positions > most) throw bad(`${positions} positions, where ${most} are the most`)
  const spans = makers.flatMap((maker) => maker.spans).sort((a, b) => a.start - b.start)
  for (const [i, { start, end }] of spans.entries())
    if (start < (spans[i - 1]?.end ?? 0) || end > positions)
      throw bad(`positions ${start} to ${end} belong to somebody else, or to nobody`)
}

function checkLayers({ to }: LayerRange, { layers }: Bounds): void {
  if (to > layers) throw bad(`layer ${to - 1} of ${layers}`)
}

function checkTickets(sources: readonly string[], tickets: readonly HeldTicket[]): void {
  const held = new Set(tickets.map(({ source }) => source))
  const without = sources.find((source) => !held.has(source))
  if (without !== undefined) throw new HeadraceError('ticket_refused', `the run has no ticket for ${without}`)
}

const bad = (what: string): HeadraceError => new HeadraceError('frame_bad_schema', `the coordinator's command: ${what}`)
