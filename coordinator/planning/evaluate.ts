import type { Strategy, Wire } from '../../shared/plan.ts'
import type { Context } from './context.ts'
import { carriedSeconds, type Layout, mayShare, pipelineOf } from './layout.ts'
import { type Pipeline, type Simulated, simulate } from './simulate.ts'
import { canEnter, type SplitAsk, split } from './split.ts'

/** A layout and what the simulation says of it. */
export interface Timed {
  readonly layout: Layout
  readonly pipeline: Pipeline
  readonly simulated: Simulated
  readonly seconds: number
  /** The simulation may come to this much for the sake of wider blocks. */
  readonly limitSeconds: number
  /** What a first look found of the same workers, in all precisions that it tried. */
  readonly known?: readonly Timed[]
}

/** A time to first token this near to the best is as good as the best, if its numbers are more exact. */
const GOOD_ENOUGH = 1.01
const REFINEMENTS = 3

export function time(
  context: Context,
  layout: Layout,
  limitSeconds = 0,
  pipeline: Pipeline = pipelineOf(context, layout),
): Timed {
  const simulated = simulate(pipeline)
  return { layout, pipeline, simulated, seconds: simulated.ttftSeconds, limitSeconds }
}

/** A first look at these workers in this order: the split of the steady state, in the widest blocks or the narrowest. */
export function draft(
  context: Context,
  strategy: Strategy,
  members: readonly number[],
  all: boolean,
): Timed | undefined {
  let best: Timed | undefined
  const known: Timed[] = []
  for (const wire of new Set([context.wires.at(-1)!, context.wires[0]!])) {
    const limit = best === undefined ? Number.POSITIVE_INFINITY : GOOD_ENOUGH * best.seconds
    const layout = splitWithin(context, members, { strategy, wire, all, share: true }, limit)
    if (layout === undefined) continue
    const timed = time(context, layout)
    known.push(timed)
    if (timed.seconds < limit) best = timed
  }
  if (best === undefined) return undefined
  const { layout, pipeline, simulated, seconds, limitSeconds } = best
  return { layout, pipeline, simulated, seconds, limitSeconds, known }
}

/** The best split of the workers of a draft in their order, in the widest precision that is good enough. */
export function evaluate(
  context: Context,
  { layout, known = [] }: Pick<Timed, 'layout' | 'known'>,
  all: boolean,
): Timed | undefined {
  const { strategy, members } = layout
  const drafts = known.filter((draft) => String(draft.layout.members) === String(members))
  const found: Found[] = []
  const ideal = context.wires.length > 1 ? idealSeconds(context, strategy, members, all) : 0
  const narrowest = drafts.find(isIn(context.wires.at(-1)!))
  const limit = GOOD_ENOUGH * Math.max(narrowest?.seconds ?? Number.POSITIVE_INFINITY, GOOD_ENOUGH * ideal)
  for (const wire of context.wires) {
    const best = bestSplit(context, members, { strategy, wire, all }, { limit, known: drafts.find(isIn(wire)) })
    if (best === undefined) continue
    found.push(best)
    if (best.timed.seconds <= GOOD_ENOUGH * ideal) break
  }
  const least = Math.min(...found.map(({ timed }) => timed.seconds))
  const widest = found.find(({ timed }) => timed.seconds <= GOOD_ENOUGH * least)
  if (widest === undefined) return undefined
  const refined = refine(context, widest)
  return { ...refined, limitSeconds: Math.max(refined.seconds, GOOD_ENOUGH * Math.min(least, refined.seconds)) }
}

const isIn =
  (wire: Wire) =>
  ({ layout }: Timed): boolean =>
    layout.prefixWires[0] === wire

interface Found {
  readonly timed: Timed
  readonly ask: SplitAsk
}

/**
 * What the decode node may take over it need not: whichever is faster, if its links do not alone make it slower than
 * `limit`. `known`: what comes out if the decode node may.
 */
function bestSplit(
  context: Context,
  members: readonly number[],
  { strategy, wire, all, freeLinks = false }: Omit<SplitAsk, 'share'>,
  { limit = Number.POSITIVE_INFINITY, known }: { limit?: number; known?: Timed | undefined } = {},
): Found | undefined {
  const choices = strategy !== 'solo' && mayShare(context, members) ? [false, true] : [false]
  let best: Found | undefined
  for (const share of choices) {
    const ask = { strategy, wire, all, freeLinks, share }
    const draft = share || choices.length === 1 ? known : undefined
    const layout = draft?.layout ?? splitWithin(context, members, ask, limit)
    if (layout === undefined) continue
    const timed = draft ?? time(context, layout)
    if (best === undefined || timed.seconds < best.timed.seconds) best = { timed, ask }
  }
  return best
}

/** Undefined too if what links have to carry takes longer than `limit` seconds: that need not be simulated. */
function splitWithin(context: Context, members: readonly number[], ask: SplitAsk, limit: number): Layout | undefined {
  if (limit === Number.POSITIVE_INFINITY) return split(context, members, ask)
  if (!canEnter(context, members, ask, limit / (context.shape.layers - 1))) return undefined
  const layout = split(context, members, ask)
  return layout !== undefined && carriedSeconds(context, layout) <= limit ? layout : undefined
}

/** What no precision can be better than: links that carry everything at once. */
function idealSeconds(context: Context, strategy: Strategy, members: readonly number[], all: boolean): number {
  const best = bestSplit(context, members, { strategy, wire: 'f32', all, freeLinks: true })
  return best === undefined ? 0 : simulate(best.timed.pipeline, { links: 0, latency: 1 }).ttftSeconds
}

/**
 * The steady state does not see how the pipeline fills. What each lane waited for in the simulation is time that it
 * cannot use, so the next split gives it less; as long as that gains.
 */
function refine(context: Context, { timed, ask }: Found): Timed {
  let best = timed
  if (ask.strategy === 'ring' || (timed.layout.members.length === 1 && !ask.share)) return best
  for (let round = 0; round < REFINEMENTS; round++) {
    const layout = split(context, best.layout.members, { ...ask, idle: idleSeconds(context, best) })
    if (layout === undefined || layout.members.length < best.layout.members.length) break
    const next = time(context, layout)
    if (next.seconds >= best.seconds) break
    best = next
  }
  return best
}

function idleSeconds({ shape }: Context, { pipeline, simulated }: Timed): number[] {
  const own = simulated.finished.map((end, at) => end / shape.layers - pipeline.work[at]![0])
  return [...own, simulated.ttftSeconds / shape.layers - pipeline.tail.layer]
}
