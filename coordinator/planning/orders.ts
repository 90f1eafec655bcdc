/**
 * Which workers a plan may take, and in what order. Up to seven workers all subsets are looked at, and where links or
 * memory make a difference all orders of each; beyond, only the first two, three, ... of the fastest, slow network cards
 * at the head, whose links carry least. Candidates are compared by their steady state, the best ones are simulated.
 */
import { groupsOf } from './about-equal.ts'
import type { Context } from './context.ts'
import { costOf, mayShare } from './layout.ts'
import { cardRate } from './network.ts'
import { chainPeriod, isEnoughArithmetic, isEnoughForChain, type Lane, spanStart } from './partition.ts'
import { RingOrders } from './ring-orders.ts'
import { laneOf, type SplitAsk, tailLane } from './split.ts'

export interface Sizes {
  readonly least: number
  readonly most: number
}

/** Up to here all subsets and orders are tried. */
const MAX_EXHAUSTIVE = 7
/** Orders of each size that are worth a simulation, where links differ. */
const KEPT_ORDERS = 2

/** Orders of two workers or more that are worth a simulation, of each size. */
export function ordersToTry(context: Context, { least, most }: Sizes, ask: OrderAsk): number[][] {
  const count = context.workers.length
  const from = Math.max(2, least)
  if (count > MAX_EXHAUSTIVE) {
    return sizesBetween(from, most).map((size) => usualOrder(context, [...context.workers.keys()].slice(0, size)))
  }
  const search = ask.strategy === 'ring' ? new RingOrders(context, ask.wire) : new ChainOrders(context, ask)
  const best = new Map<number, Rated[]>()
  const kept = context.network.alike ? 1 : KEPT_ORDERS
  const ranked = usualOrder(context, [...context.workers.keys()])
  for (let subset = 1; subset < 2 ** count; subset++) {
    const members = ranked.filter((i) => (subset >> i) & 1)
    if (members.length < from || members.length > most) continue
    const rivals = best.get(members.length) ?? []
    const limits = { best: secondsOf(rivals[0]), worst: secondsOf(rivals[kept - 1]) }
    const found = search.rate(members, limits)
    if (found.length === 0) continue
    best.set(members.length, [...rivals, ...found].toSorted((x, y) => x.seconds - y.seconds).slice(0, kept))
  }
  return [...best.values()].flat().map(({ order }) => order)
}

const secondsOf = (rated: Rated | undefined): number => rated?.seconds ?? Number.POSITIVE_INFINITY

/** Every size up to sixteen, then in steps of an eighth, and the largest. */
function sizesBetween(least: number, most: number): number[] {
  const sizes: number[] = []
  for (let size = least; size < most; size += Math.max(1, size >> 3)) sizes.push(size)
  return least <= most ? [...sizes, most] : []
}

export type OrderAsk = Pick<SplitAsk, 'strategy' | 'wire' | 'all'>

/** An order and what its steady state says of its time. */
export interface Rated {
  readonly order: number[]
  readonly seconds: number
}

/** Of the orders that are worth a simulation so far: what is not better than the worst of them is not. */
export interface Limits {
  readonly best: number
  readonly worst: number
}

/** Cards that are slower by less than this are as fast. */
const ABOUT_AS_FAST_CARDS = 1.3

/** Slow cards first, then fast workers; cards or workers that are about as fast count as equal, and go by their names. */
export function usualOrder({ network, rank }: Context, members: readonly number[]): number[] {
  const ranked = members.toSorted((x, y) => rank[x]! - rank[y]!)
  if (network.alike) return ranked
  const rates = ranked.map((member) => cardRate(network, member))
  const card = new Map(groupsOf(rates, ABOUT_AS_FAST_CARDS).map((group, i) => [ranked[i]!, group]))
  return ranked.sort((x, y) => card.get(x)! - card.get(y)!)
}

/** What is the same for all orders of the same workers. */
interface Group {
  readonly tail: Lane
  /** Those whose cost is that beside others of their host. */
  readonly shared: ReadonlySet<number>
}

/** The earliest start of each set of workers with each of them first, and who comes next then: `[set * count + first]`. */
interface Reached {
  readonly starts: Float64Array
  readonly nexts: Int8Array
}

/** Gains below this are chance, and not worth another order than the last time. */
export const WORTHWHILE = 0.98
const MOST_LOOKS = 4

/**
 * Orders of a chain. For a period, dynamic programming over (who is still to be placed at the tail, who of them is first)
 * finds the earliest position that any order reaches from the prompt's end, so whether one can do all in that period: the
 * best of thousands of orders for a few hundred steps.
 */
export class ChainOrders {
  readonly #context: Context
  readonly #ask: OrderAsk & { share: boolean }
  readonly #orderMatters: boolean
  readonly #lanes: Lane[] = []
  /** The same memory for each search. */
  readonly #reached: Reached

  constructor(context: Context, ask: OrderAsk) {
    const count = context.workers.length
    const states = 2 ** count * count
    this.#reached = { starts: new Float64Array(states), nexts: new Int8Array(states) }
    this.#context = context
    this.#ask = { ...ask, share: true }
    this.#orderMatters = !context.network.alike || context.workers.some(({ budgetBytes }) => budgetBytes !== undefined)
  }

  /** The order given, if it comes under the limits, and every better one that is found. */
  rate(members: number[], { best, worst }: Limits): Rated[] {
    const group = this.#groupOf(members)
    const given = this.#seconds(members, group, worst)
    const rated: Rated[] = given === Number.POSITIVE_INFINITY ? [] : [{ order: members, seconds: given }]
    if (!this.#orderMatters) return rated
    const { shape } = this.#context
    for (let look = 0; look < MOST_LOOKS; look++) {
      const target = WORTHWHILE * Math.min(best, secondsOf(rated[0])) - this.#leastLatency(members)
      const order = Number.isFinite(target) ? this.#orderWithin(members, group, target / shape.layers) : undefined
      if (order === undefined) break
      const seconds = this.#seconds(order, group, secondsOf(rated[0]))
      if (seconds >= secondsOf(rated[0])) break
      rated.unshift({ order, seconds })
    }
    return rated
  }

  /** Infinity for what cannot do with less than `limit`: one pass tells, where finding out how much takes thirty. */
  #seconds(order: readonly number[], { tail, shared }: Group, limit: number): number {
    const { network, shape, promptTokens } = this.#context
    const lanes = order.map((member, at) => this.#lane(member, order[at + 1], shared.has(member)))
    lanes.push(tail)
    let latency = 0
    for (const [at, member] of order.entries())
      latency += network.latency[member * network.size + (order[at + 1] ?? network.size - 1)]!
    if (limit < Number.POSITIVE_INFINITY && !isEnoughForChain(lanes, promptTokens, (limit - latency) / shape.layers))
      return Number.POSITIVE_INFINITY
    return shape.layers * (chainPeriod(lanes, promptTokens) ?? Number.POSITIVE_INFINITY) + latency
  }

  /** Everyone's blocks have to come to the decode node. */
  #leastLatency(members: readonly number[]): number {
    const { network } = this.#context
    return Math.max(...members.map((member) => network.latency[(member + 1) * network.size - 1]!))
  }

  #groupOf(members: readonly number[]): Group {
    const { workers } = this.#context
    const company = { members, tail: mayShare(this.#context, members) }
    const shared = members.filter((member) => costOf(this.#context, member, company) !== workers[member]!.cost)
    return { tail: tailLane(this.#context, members, this.#ask), shared: new Set(shared) }
  }

  #lane(member: number, next: number | undefined, shared: boolean): Lane {
    const { workers, network } = this.#context
    const key = ((next ?? network.size - 1) * network.size + member) * 2 + Number(shared)
    const known = this.#lanes[key]
    if (known !== undefined) return known
    const { cost, sharedCost } = workers[member]!
    const place = { member, next, passes: undefined, cost: shared ? sharedCost! : cost, idleSeconds: 0 }
    const lane = laneOf(this.#context, this.#ask, place)
    this.#lanes[key] = lane
    return lane
  }

  /** An order of these members that does all in a period, if there is one. */
  #orderWithin(members: readonly number[], { tail, shared }: Group, period: number): number[] | undefined {
    const count = members.length
    const { promptTokens } = this.#context
    const last = members.map((member) => this.#lane(member, undefined, shared.has(member)))
    if (!isEnoughArithmetic([...last, tail], promptTokens, period)) return undefined
    const lanes = members.map((member) => members.map((next) => this.#lane(member, next, shared.has(member))))
    const end = spanStart(tail, promptTokens, period)
    const { starts, nexts } = this.#reached
    starts.fill(Number.POSITIVE_INFINITY, 0, 2 ** count * count)
    for (let set = 1; set < 2 ** count; set++)
      for (let first = 0; first < count; first++) {
        if (!((set >> first) & 1)) continue
        const at = set * count + first
        const rest = set & ~(1 << first)
        if (rest === 0) starts[at] = spanStart(last[first]!, end, period)
        for (let next = 0; next < count; next++) {
          const after = starts[rest * count + next]!
          if (!((rest >> next) & 1) || after === Number.POSITIVE_INFINITY) continue
          const start = spanStart(lanes[first]![next]!, after, period)
          if (!(start < starts[at]!)) continue
          starts[at] = start
          nexts[at] = next
        }
      }
    return orderFrom(members, this.#reached)
  }
}

/** Follows the choices of the best first worker that reaches the prompt's start. */
function orderFrom(members: readonly number[], { starts, nexts }: Reached): number[] | undefined {
  const count = members.length
  let set = 2 ** count - 1
  let first = 0
  for (let other = 1; other < count; other++)
    if (starts[set * count + other]! < starts[set * count + first]!) first = other
  if (starts[set * count + first]! > 0) return undefined
  const order: number[] = []
  for (;;) {
    order.push(members[first]!)
    const next = nexts[set * count + first]!
    set &= ~(1 << first)
    if (set === 0) return order
    first = next
  }
}
