/**
 * Facts in, plan out: the plan with the smallest predicted time to first token, and the best of every other kind beside
 * it, so that a user sees what splitting is worth before anything runs.
 */
import { HeadraceError } from '../../shared/errors.ts'
import type { WorkerId } from '../../shared/ids.ts'
import { MAX_BLOCK_BYTES } from '../../shared/link/link.ts'
import { kvBytesPerTokenLayer, type ModelShape } from '../../shared/model-shape.ts'
import { type Plan, STRATEGIES, type Strategy, type Wire } from '../../shared/plan.ts'
import type { Cost } from '../../shared/protocol/control.ts'
import { prefillSeconds, tokenSeconds } from './cost.ts'
import { chainSpans, ringSpans } from './partition.ts'
import { type Part, type Prediction, predict } from './predict.ts'
import { sharedSpans } from './shares.ts'
import { fastestFirst, subsetsToTry } from './subsets.ts'

/** All that a plan depends on. Only workers and decode nodes that are ready. */
export interface PlanFacts {
  readonly shape: ModelShape
  readonly promptTokens: number
  readonly workers: readonly PrefillFacts[]
  readonly decode: readonly DecodeFacts[]
  /** Most tokens wanted in one KV block. Default: 512. */
  readonly blockTokens?: number
}

interface PrefillFacts {
  readonly id: WorkerId
  readonly cost: Cost
  readonly rttSeconds?: number
}

interface DecodeFacts {
  readonly id: WorkerId
  /** Runs that it holds now. */
  readonly runs: number
}

/**
 * What a client insists on. `workers` is exact, except that a prompt may have too few tokens for them: who gets none is
 * left out.
 */
export interface PlanAsk {
  readonly strategy?: Strategy
  readonly workers?: number
  /** Tokens of each worker in proportion to these, one for each of `workers`, in the order of the plan. */
  readonly shares?: readonly number[]
}

export interface Planned {
  readonly chosen: Plan
  /** Solo on every worker, and the best chain and ring of each size; best first, so the first is the chosen one. */
  readonly candidates: readonly Plan[]
}

/** An assignment lists at most this many workers (`shared/protocol/control.ts`). */
const MAX_WORKERS = 64

/** Throws `no_decode_node`, `no_workers`, `plan_impossible` or `empty_prompt`. */
export function planPrefill(facts: PlanFacts, ask: PlanAsk = {}): Planned {
  const sizes = sizesAllowed(facts, ask)
  const candidates = bestOfEachKind(layoutsToTry(facts, ask, sizes), ask)
    .toSorted(byPreference)
    .map((layout) => toPlan(layout, facts))
  return Object.freeze({ chosen: candidates[0]!, candidates: Object.freeze(candidates) })
}

interface Sizes {
  readonly least: number
  readonly most: number
}

/** How many workers a plan may have, or the coded error why there is none. */
function sizesAllowed(facts: PlanFacts, { strategy, workers: asked }: PlanAsk): Sizes {
  const ready = Math.min(facts.workers.length, MAX_WORKERS)
  if (facts.promptTokens < 1) throw new HeadraceError('empty_prompt', 'a prompt without tokens cannot be planned')
  if (facts.decode.length === 0) throw new HeadraceError('no_decode_node', 'no decode node is ready')
  if (ready === 0 && facts.promptTokens > 1) throw new HeadraceError('no_workers', 'no prefill worker is ready')
  if (asked === undefined) {
    if (strategy === 'solo') return { least: 1, most: 1 }
    return { least: strategy === undefined ? 1 : Math.min(2, ready), most: ready }
  }
  const available = strategy === 'solo' ? Math.min(1, ready) : ready
  if (!Number.isInteger(asked) || asked < 1 || asked > available)
    throw new HeadraceError('plan_impossible', `${asked} workers asked for, ${available} can take part`, {
      details: { asked, available },
    })
  return { least: asked, most: asked }
}

/** A prompt of one token is the decode node's alone: that plan has no workers. */
function layoutsToTry(facts: PlanFacts, ask: PlanAsk, { least, most }: Sizes): Layout[] {
  const tokens = facts.promptTokens - 1
  if (tokens === 0) return [layOut(ask.strategy ?? 'solo', [], facts, {})]
  return subsetsToTry(fastestFirst(facts.workers, tokens), least, most).flatMap((subset) =>
    strategiesFor(subset.length, ask).map((strategy) => layOut(strategy, subset, facts, ask)),
  )
}

/** One worker is solo, whatever it is called, unless a strategy is insisted on. */
function strategiesFor(size: number, ask: PlanAsk): readonly Strategy[] {
  if (ask.strategy !== undefined) return [ask.strategy]
  return size === 1 ? ['solo'] : ['chain', 'ring']
}

/** A candidate before it is written out as a plan. */
interface Layout {
  readonly strategy: Strategy
  readonly parts: readonly (Part & { readonly worker: PrefillFacts })[]
  readonly prediction: Prediction
}

/** Of an exact number everyone takes part, even one whose overhead alone would delay the rest. */
function layOut(strategy: Strategy, subset: readonly PrefillFacts[], facts: PlanFacts, ask: PlanAsk): Layout {
  const tokens = facts.promptTokens - 1
  const lanes = ask.workers !== undefined ? subset.map(({ cost }) => ({ cost: { ...cost, o: 0 } })) : subset
  const shares = ask.shares?.length === subset.length ? ask.shares : undefined
  const balanced = () => (subset.length === 0 ? [] : (strategy === 'ring' ? ringSpans : chainSpans)(lanes, tokens))
  const spans = shares === undefined ? balanced() : sharedSpans(strategy, shares, tokens)
  const parts = subset.map((worker, i) => ({ worker, spans: spans[i]! })).filter((part) => part.spans.length > 0)
  return { strategy, parts, prediction: predict(strategy, parts, facts.shape, lastTokenSeconds(facts)) }
}

/** The decode node is not calibrated for prefill; the best worker's cost stands in for it. The same for all candidates. */
function lastTokenSeconds({ workers, promptTokens, shape }: PlanFacts): number {
  if (workers.length === 0) return 0
  return Math.min(...workers.map(({ cost }) => tokenSeconds(cost, promptTokens - 1, shape)))
}

/** Keeps every solo and the best layout of each strategy and size; of an exact number, the layouts that come nearest. */
function bestOfEachKind(layouts: readonly Layout[], ask: PlanAsk): Layout[] {
  const largest = Math.max(...layouts.map(({ parts }) => parts.length))
  const best = new Map<string, Layout>()
  for (const layout of layouts) {
    const { strategy, parts } = layout
    if (ask.workers !== undefined && parts.length < largest) continue
    // a split that shrank to one worker is the solo that stands there already
    if (ask.strategy === undefined && strategy !== 'solo' && parts.length === 1 && ask.workers === undefined) continue
    const kind = strategy === 'solo' ? `solo ${parts[0]?.worker.id}` : `${strategy} ${parts.length}`
    const rival = best.get(kind)
    if (rival === undefined || byPreference(layout, rival) < 0) best.set(kind, layout)
  }
  return [...best.values()]
}

/** Fastest first; among equals fewer workers, then solo before chain before ring. */
const byPreference = (x: Layout, y: Layout): number =>
  x.prediction.ttftSeconds - y.prediction.ttftSeconds ||
  x.parts.length - y.parts.length ||
  STRATEGIES.indexOf(x.strategy) - STRATEGIES.indexOf(y.strategy)

/** Links are not measured yet, so nothing says that a narrower block would pay. */
const EXACT: Wire = 'f32'

/** Frozen all the way down, so that it can be handed to every part of a run. */
function toPlan({ strategy, parts, prediction }: Layout, facts: PlanFacts): Plan {
  const workers = parts.map(({ worker: { id, cost }, spans }) =>
    Object.freeze({
      worker: id,
      spans: Object.freeze(spans.map((span) => Object.freeze(span))),
      computeSeconds: prefillSeconds(cost, spans, facts.shape),
      prefixWire: EXACT,
      handoffWire: EXACT,
    }),
  )
  return Object.freeze({
    strategy,
    promptTokens: facts.promptTokens,
    prefillTokens: facts.promptTokens - 1,
    workers: Object.freeze(workers),
    decode: leastLoaded(facts.decode),
    blockTokens: blockTokens(facts.shape, facts.blockTokens),
    predictedTtftSeconds: prediction.ttftSeconds,
    bound: prediction.bound,
    boundBy: prediction.bound,
  })
}

const leastLoaded = (nodes: readonly DecodeFacts[]): WorkerId =>
  nodes.reduce((best, node) => (node.runs < best.runs || (node.runs === best.runs && node.id < best.id) ? node : best))
    .id

/** A multiple of 64 whose K and V fit a frame; below 64, as many as fit (or as are wanted). */
function blockTokens(shape: ModelShape, wanted = 512): number {
  const most = Math.min(wanted, 512, Math.floor(MAX_BLOCK_BYTES / kvBytesPerTokenLayer(shape)))
  return most < 64 ? Math.max(1, most) : most - (most % 64)
}
