/** A split for an order of workers: lanes from the context, spans from the partition. */
import { type Span, type Strategy, spanTokens, type Wire } from '../../shared/plan.ts'
import { PREFIX_LAYERS } from '../../shared/prefill-memory.ts'
import type { Cost } from '../../shared/protocol/control.ts'
import type { Context } from './context.ts'
import { costOf, fits, type Layout, mayShare } from './layout.ts'
import { CHAIN_END, CHAIN_LINK, costWithMoving, DECODE_NODE, type Passes, ringPasses } from './moving.ts'
import { rateOf } from './network.ts'
import { chainSpans, isEnoughArithmetic, type Lane, ringSpans, spanStart } from './partition.ts'

export interface SplitAsk {
  readonly strategy: Strategy
  readonly wire: Wire
  /** The decode node takes more than the last token, if it may. */
  readonly share: boolean
  /** Everyone takes part, even one whose overhead alone would delay the rest. */
  readonly all: boolean
  /** Links that carry everything at once, to see what they cost. */
  readonly freeLinks?: boolean
  /** Seconds of each layer that the members, and last the decode node, cannot use, as a simulation found. */
  readonly idle?: readonly number[]
}

/**
 * The layout of these workers in this order, where those that get no token are left out; undefined if memory forbids it,
 * or nobody is left.
 */
export function split(context: Context, members: readonly number[], ask: SplitAsk): Layout | undefined {
  const spans = spansOf(context, members, ask)
  if (spans === undefined) return undefined
  const used = members.filter((_, i) => spans[i]!.length > 0)
  // a decode node that would have it all is no split: it takes the last token only
  if (used.length === 0) return ask.share ? split(context, members, { ...ask, share: false }) : undefined
  // who follows whom has changed, and with it the links
  if (used.length < members.length) return split(context, used, { ...ask, idle: [] })
  const wires = members.map(() => ask.wire)
  const layout: Layout = { strategy: ask.strategy, members, spans, prefixWires: wires, handoffWires: wires }
  return fits(context, layout) ? layout : undefined
}

function spansOf(context: Context, members: readonly number[], ask: SplitAsk): Span[][] | undefined {
  const tail = tailLane(context, members, ask)
  const ring = ask.strategy === 'ring' ? ringPasses(members.length) : undefined
  const company = { members, tail: (tail.most ?? 1) > 1 }
  const lanes = members.map((member, at) =>
    laneOf(context, ask, {
      member,
      next: ring === undefined ? members[at + 1] : undefined,
      passes: ring,
      cost: costOf(context, member, company),
      idleSeconds: ask.idle?.[at] ?? 0,
    }),
  )
  if (ask.strategy === 'ring') return ringSpans(lanes, context.promptTokens, tail)
  const spans = chainSpans([...lanes, tail], context.promptTokens)
  return ask.all && spans !== undefined ? evenedOut(spans).slice(0, -1) : spans?.slice(0, -1)
}

interface Place {
  readonly member: number
  /** Whom its prefix goes to. */
  readonly next: number | undefined
  /** Of a ring; undefined: those of a chain. */
  readonly passes: Passes | undefined
  readonly cost: Cost
  readonly idleSeconds: number
}

/** One at the front and one at the back. */
const RING_LEAST = 2

/** What limits a worker at its place in a chain. */
export function laneOf(context: Context, ask: Bytes & { all: boolean }, place: Place): Lane {
  const { network, workers } = context
  const { member, next, idleSeconds } = place
  const passes = place.passes ?? (next === undefined ? CHAIN_END : CHAIN_LINK)
  const bytes = bytesOf(context, ask)
  const cost = costWithMoving(place.cost, passes)
  const decode = network.size - 1
  const leaves = (to: number) => network.host[member] !== network.host[to]
  const out = bytes / network.out[network.host[member]!]!
  const { budgetBytes } = workers[member]!
  return {
    cost: ask.all ? { ...cost, o: 0 } : cost,
    idleSeconds,
    prefixSeconds: next === undefined ? 0 : bytes / rateOf(network, member, next),
    handoffSeconds: bytes / rateOf(network, member, decode),
    ingressSeconds: 0,
    card:
      next !== undefined && leaves(next) && leaves(decode) ? { prefixSeconds: out, handoffSeconds: out } : undefined,
    room: budgetBytes === undefined ? undefined : roomOf(context, budgetBytes),
    // a chain evens out afterwards
    least: ask.all && place.passes !== undefined ? RING_LEAST : 0,
    most: Number.POSITIVE_INFINITY,
  }
}

/** The decode node as the last lane of a chain. */
export function tailLane(context: Context, members: readonly number[], ask: TailAsk): Lane {
  const { network, tailCost, tailRoom } = context
  const host = network.host[network.size - 1]!
  const allEnter = members.every((member) => network.host[member] !== host)
  return {
    cost: costWithMoving(tailCost, DECODE_NODE),
    idleSeconds: ask.idle?.[members.length] ?? 0,
    prefixSeconds: 0,
    handoffSeconds: 0,
    ingressSeconds: allEnter ? bytesOf(context, ask) / network.in[host]! : 0,
    card: undefined,
    room: undefined,
    least: 1,
    // solo is one worker that does it all
    most: ask.share && ask.strategy !== 'solo' && mayShare(context, members) ? Math.max(1, tailRoom) : 1,
  }
}

/**
 * Whether the decode node's host can take in within a period of a layer what any split hands off: all that the decode
 * node itself has no time for.
 */
export function canEnter(context: Context, members: readonly number[], ask: TailAsk, period: number): boolean {
  const tail = tailLane(context, members, ask)
  // Without what taking tokens in costs it, which its own tokens save: no split gives it more than this.
  const { o, a, b } = tail.cost
  return spanStart({ ...tail, cost: { o, a, b } }, context.promptTokens, period) < Number.POSITIVE_INFINITY
}

/** Whether these workers and the decode node could have the first token in so many seconds if all links were free. */
export function canCompute(context: Context, members: readonly number[], seconds: number): boolean {
  const { shape, promptTokens } = context
  const tail = tailLane(context, members, { strategy: 'chain', wire: 'f32', share: true })
  const company = { members, tail: (tail.most ?? 1) > 1 }
  const lanes: Lane[] = members.map((member) => ({ cost: costOf(context, member, company) }))
  return isEnoughArithmetic([...lanes, tail], promptTokens, seconds / (shape.layers - 1))
}

type Bytes = Pick<SplitAsk, 'wire' | 'freeLinks'>
type TailAsk = Bytes & Pick<SplitAsk, 'strategy' | 'share' | 'idle'>

const bytesOf = ({ wireBytes }: Context, { wire, freeLinks }: Bytes): number => (freeLinks ? 0 : wireBytes[wire])

/** Rounding moves a span by up to two tokens; they are kept free. */
function roomOf({ stateBytes, kvBytes }: Context, budgetBytes: number) {
  const own = stateBytes + kvBytes
  const before = PREFIX_LAYERS * kvBytes
  return { budget: budgetBytes - 2 * Math.max(own, before), own, before }
}

/** Nobody goes without a token where there are enough. */
function evenedOut(spans: readonly Span[][]): Span[][] {
  const count = spans.length
  const tokens = spans.at(-1)!.at(-1)!.end
  if (tokens < count) return [...spans]
  const ends: number[] = []
  let end = 0
  spans.forEach((own, i) => {
    end += spanTokens(own)
    ends.push(Math.min(Math.max(end, (ends[i - 1] ?? 0) + 1), tokens - (count - 1 - i)))
  })
  return ends.map((end, i) => [{ start: ends[i - 1] ?? 0, end }])
}
