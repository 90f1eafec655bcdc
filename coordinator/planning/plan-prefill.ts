/**
 * Facts in, plan out: the plan with the smallest predicted time to first token, and the best of every other kind beside
 * it, so that a user sees what splitting is worth before anything runs.
 */
import { HeadraceError } from '../../shared/errors.ts'
import { type Plan, STRATEGIES, type Strategy } from '../../shared/plan.ts'
import { limitOf } from './bound.ts'
import { type Context, contextOf } from './context.ts'
import { prefillSeconds } from './cost.ts'
import { withDelay } from './delay.ts'
import { draft, evaluate, type Timed, time } from './evaluate.ts'
import type { PlanFacts } from './facts.ts'
import { companyOf, costOf, fits, prefillTokens } from './layout.ts'
import { ordersToTry, type Sizes, WORTHWHILE } from './orders.ts'
import { sharedSpans } from './shares.ts'
import { canCompute } from './split.ts'
import { widen } from './widen.ts'

/**
 * What a client insists on. `workers` is exact, except that a prompt may have too few tokens for them: who gets none is
 * left out.
 */
export interface PlanAsk {
  readonly strategy?: Strategy
  readonly workers?: number
  /** Tokens of each worker in the order of the plan, as proportions; as many as `workers`. */
  readonly shares?: readonly number[]
  /** Where no worker is ready, the decode node may do it all. */
  readonly alone?: boolean
}

export interface Planned {
  readonly chosen: Plan
  /**
   * Solo on every worker (and on the decode node alone, if that is calibrated), and the best chain and ring of each size;
   * best first, so the first is the chosen one.
   */
  readonly candidates: readonly Plan[]
}

/** An assignment lists at most this many workers (`shared/protocol/control.ts`). */
const MAX_WORKERS = 64

/** Throws `no_decode_node`, `no_workers`, `plan_impossible` or `empty_prompt`. */
export function planPrefill(facts: PlanFacts, ask: PlanAsk = {}): Planned {
  const sizes = sizesAllowed(facts, ask)
  const context = contextOf(facts)
  const drafts = bestOfEachKind(drafted(context, ask, sizes), context, ask).toSorted(byPreference(context))
  if (ask.shares !== undefined)
    return planned(
      context,
      drafts.map((timed) => shared(context, timed, ask.shares!)),
    )
  const looked = drafts.map((timed, rank) => {
    const promising = rank < MOST_LOOKED_AT && forAll(context, timed) <= WORTH_A_LOOK * forAll(context, drafts[0]!)
    return promising ? lookedAt(context, timed, ask.workers !== undefined) : timed
  })
  return planned(context, widenBest(context, looked.toSorted(byPreference(context))))
}

function planned(context: Context, best: readonly Timed[]): Planned {
  const sorted = best.toSorted(byPreference(context))
  if (sorted.length === 0) throw withoutRoom(context)
  return new Explained(context, sorted)
}

/** What limits the candidates takes as long to find out as a fifth of the search, and a run does not ask. */
class Explained implements Planned {
  readonly chosen: Plan
  readonly #context: Context
  readonly #others: readonly Timed[]
  #candidates: readonly Plan[] | undefined

  constructor(context: Context, [first, ...others]: readonly Timed[]) {
    this.chosen = toPlan(context, first!)
    this.#context = context
    this.#others = others
    Object.freeze(this)
  }

  get candidates(): readonly Plan[] {
    this.#candidates ??= Object.freeze([this.chosen, ...this.#others.map((timed) => toPlan(this.#context, timed))])
    return this.#candidates
  }
}

/** The same workers in the same order, with what the client says each should have. */
function shared(context: Context, { layout }: Timed, shares: readonly number[]): Timed {
  const { strategy, members, prefixWires, handoffWires } = layout
  const spans = sharedSpans(strategy, shares, context.promptTokens - 1)
  const taking = members.map((_, at) => at).filter((at) => (spans[at]?.length ?? 0) > 0)
  const of = <T>(all: readonly T[]): T[] => taking.map((at) => all[at]!)
  return time(context, {
    strategy,
    members: of(members),
    spans: of(spans),
    prefixWires: of(prefixWires),
    handoffWires: of(handoffWires),
  })
}

/** Candidates whose first look is this near to the best are looked at in full, so many at most. */
const WORTH_A_LOOK = 1.2
const MOST_LOOKED_AT = 5

function lookedAt(context: Context, timed: Timed, all: boolean): Timed {
  const { members } = timed.layout
  if (members.length === 0) return timed
  const found = evaluate(context, timed, all)
  return found === undefined || found.layout.members.length !== members.length ? timed : found
}

/** The best one gets the widest blocks that it can afford, worker by worker; if another is best then, that one does. */
function widenBest(context: Context, sorted: readonly Timed[]): Timed[] {
  let plans = [...sorted]
  for (let tries = 0; tries < MOST_WIDENED && plans.length > 0; tries++) {
    const [first, ...others] = plans
    const wide = widen(context, first!)
    plans = [wide, ...others].toSorted(byPreference(context))
    if (plans[0] === wide) break
  }
  return plans
}

const MOST_WIDENED = 3

/** How many workers a plan may have, or the coded error why there is none. */
function sizesAllowed(facts: PlanFacts, { strategy, workers: asked, alone }: PlanAsk): Sizes {
  const ready = Math.min(facts.workers.length, MAX_WORKERS)
  if (facts.promptTokens < 1) throw new HeadraceError('empty_prompt', 'a prompt without tokens cannot be planned')
  if (facts.decode.length === 0) throw new HeadraceError('no_decode_node', 'no decode node is ready')
  if (ready === 0 && alone) return { least: 0, most: 0 }
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
function drafted(context: Context, ask: PlanAsk, sizes: Sizes): Timed[] {
  if (context.promptTokens === 1 || sizes.most === 0) return [decodeAlone(context, ask.strategy ?? 'solo')]
  const all = ask.workers !== undefined
  const ones = sizes.least > 1 ? [] : context.workers.map((_, i) => draft(context, ask.strategy ?? 'solo', [i], all))
  const splits = (['chain', 'ring'] as const)
    .filter((strategy) => ask.strategy === undefined || ask.strategy === strategy)
    .flatMap((strategy) => ordersIn(context, strategy, sizes, all).map((order) => draft(context, strategy, order, all)))
  const withTail = ask.strategy === undefined && sizes.least <= 1 && context.decode.cost !== undefined
  const pairs = withTail ? pairsWithTail(context, all) : []
  const timed = [...ones, ...pairs, ...splits].filter((each) => each !== undefined)
  // Who asks for `solo` means a worker.
  const mayBeAlone = context.decode.cost !== undefined && !all && ask.strategy === undefined
  const alone = decodeAlone(context, 'solo')
  return mayBeAlone && fits(context, alone.layout) ? [...timed, alone] : timed
}

/** Each worker with the decode node, but those that arithmetic alone makes slower than another: the best one is listed. */
function pairsWithTail(context: Context, all: boolean): Timed[] {
  const pairs: Timed[] = []
  let limit = Number.POSITIVE_INFINITY
  for (const member of context.workers.keys()) {
    if (!canCompute(context, [member], limit)) continue
    const pair = draft(context, 'chain', [member], all)
    if (pair === undefined) continue
    pairs.push(pair)
    if (isSplit(context, pair) && !all) limit = Math.min(limit, pair.seconds)
  }
  return pairs
}

function decodeAlone(context: Context, strategy: Strategy): Timed {
  return time(context, { strategy, members: [], spans: [], prefixWires: [], handoffWires: [] })
}

/** What is best for wide blocks need not be for narrow ones; in a ring, where all links carry the same, it mostly is. */
function ordersIn(context: Context, strategy: Strategy, sizes: Sizes, all: boolean): number[][] {
  const [widest, narrowest] = [context.wires[0]!, context.wires.at(-1)!]
  const wires = context.network.alike || strategy === 'ring' ? [narrowest] : new Set([widest, narrowest])
  const orders = [...wires].flatMap((wire) => ordersToTry(context, sizes, { strategy, wire, all }))
  return [...new Map(orders.map((order) => [order.join(' '), order])).values()]
}

/** Keeps every solo and the best layout of each strategy and size; of an exact number, the layouts that come nearest. */
function bestOfEachKind(timings: readonly Timed[], context: Context, ask: PlanAsk): Timed[] {
  const largest = Math.max(...timings.map(({ layout }) => layout.members.length))
  const best = new Map<string, Timed>()
  for (const timed of timings) {
    const { strategy, members } = timed.layout
    if (ask.workers !== undefined && members.length < largest) continue
    // a split that shrank to one worker is the solo that stands there already
    if (ask.strategy === undefined && strategy !== 'solo' && !isSplit(context, timed) && ask.workers === undefined)
      continue
    const kind = strategy === 'solo' ? `solo ${context.workers[members[0]!]?.id}` : `${strategy} ${members.length}`
    const rival = best.get(kind)
    if (rival === undefined || forAll(context, timed) < WORTHWHILE * forAll(context, rival)) best.set(kind, timed)
  }
  return [...best.values()]
}

const isSplit = ({ promptTokens }: Context, { layout }: Timed): boolean =>
  layout.members.length > 1 || prefillTokens(layout) < promptTokens - 1

/** Best for all first: where nobody waits, the fastest; among equals fewer workers, then solo before chain before ring. */
const byPreference =
  (context: Context) =>
  (x: Timed, y: Timed): number =>
    forAll(context, x) - forAll(context, y) ||
    x.layout.members.length - y.layout.members.length ||
    STRATEGIES.indexOf(x.layout.strategy) - STRATEGIES.indexOf(y.layout.strategy)

/** Seconds, with those by which it delays whoever waits behind it. */
const forAll = (context: Context, { seconds, layout }: Timed): number =>
  context.behind === 0 ? seconds : withDelay(seconds, context.behind, companyOf(layout, context), context.parts)

/** Frozen all the way down, so that it can be handed to every part of a run. */
function toPlan(context: Context, timed: Timed): Plan {
  const { strategy, members, spans, prefixWires, handoffWires } = timed.layout
  const company = companyOf(timed.layout, context)
  const workers = members.map((member, at) =>
    Object.freeze({
      worker: context.workers[member]!.id,
      spans: Object.freeze(spans[at]!.map(({ start, end }) => Object.freeze({ start, end }))),
      computeSeconds: prefillSeconds(costOf(context, member, company), spans[at]!, context.shape),
      prefixWire: prefixWires[at]!,
      handoffWire: handoffWires[at]!,
    }),
  )
  return Object.freeze({
    strategy,
    promptTokens: context.promptTokens,
    prefillTokens: prefillTokens(timed.layout),
    workers: Object.freeze(workers),
    decode: context.decode.id,
    blockTokens: context.blockTokens,
    predictedTtftSeconds: context.edgeSeconds + timed.seconds,
    ...limitOf(context, timed),
  })
}

function withoutRoom({ promptTokens, workers }: Context): HeadraceError {
  const budgetBytes = workers.reduce((sum, worker) => sum + (worker.budgetBytes ?? 0), 0)
  const message = `no way to split ${promptTokens} tokens fits the ${budgetBytes} bytes that ${workers.length} workers have`
  return new HeadraceError('plan_impossible', message, { details: { promptTokens, budgetBytes } })
}
