import type { Wire } from '../../shared/plan.ts'
import type { Context } from './context.ts'
import { costOf, mayShare } from './layout.ts'
import { costWithMoving, ringPasses } from './moving.ts'
import { rateOf } from './network.ts'
import type { Limits, Rated } from './orders.ts'

/**
 * Orders of a ring. Every link carries about the same, so the slowest sets the pace, and the latency of all of them is
 * paid in each layer. All circles are gone through, and left as soon as they cannot become the best.
 */
export class RingOrders {
  readonly #context: Context
  readonly #bytes: number

  constructor(context: Context, wire: Wire) {
    this.#context = context
    this.#bytes = context.wireBytes[wire]
  }

  /** The order given, and the best if links differ and it beats `best`. */
  rate(members: number[], { best }: Limits): Rated[] {
    const { network, shape, promptTokens } = this.#context
    const computed = this.#period(members)
    const carried = (promptTokens * this.#bytes * (members.length - 1)) / members.length
    const seconds = (slowest: number, latency: number) =>
      shape.layers * Math.max(computed, carried / slowest) + (shape.layers - 1) * latency
    const given = { order: members, seconds: seconds(...this.#circle(members)) }
    if (network.alike) return [given]
    let limit = Math.min(best, given.seconds)
    let found: number[] | undefined
    const order = [members[0]!]
    const rest = new Set(members.slice(1))
    const extend = (slowest: number, latency: number): void => {
      const last = order.at(-1)!
      if (rest.size === 0) {
        const [rate, hop] = this.#link(last, order[0]!)
        const whole = seconds(Math.min(slowest, rate), latency + hop)
        if (whole < limit) [limit, found] = [whole, [...order]]
        return
      }
      for (const next of [...rest]) {
        const [rate, hop] = this.#link(last, next)
        const [worse, farther] = [Math.min(slowest, rate), latency + hop]
        if (seconds(worse, farther) >= limit) continue
        rest.delete(next)
        order.push(next)
        extend(worse, farther)
        order.pop()
        rest.add(next)
      }
    }
    extend(Number.POSITIVE_INFINITY, 0)
    return found === undefined ? [given] : [{ order: found, seconds: limit }, given]
  }

  /** Widths in proportion to speed: sum of (tau - 2 o - c L) / (a - c + b L / 2) = L, solved for tau. */
  #period(members: readonly number[]): number {
    const { promptTokens } = this.#context
    let overhead = 0
    let speed = 0
    for (const member of members) {
      const cost = costOf(this.#context, member, { members, tail: mayShare(this.#context, members) })
      const { o, a, b, c = 0 } = costWithMoving(cost, ringPasses(members.length))
      const perToken = Math.max(0, a - c) + (b * promptTokens) / 2
      overhead += (2 * o + c * promptTokens) / perToken
      speed += 1 / perToken
    }
    return speed === Number.POSITIVE_INFINITY ? 0 : (promptTokens + overhead) / speed
  }

  #circle(order: readonly number[]): [slowest: number, latency: number] {
    let [slowest, latency] = [Number.POSITIVE_INFINITY, 0]
    order.forEach((member, at) => {
      const [rate, hop] = this.#link(member, order[(at + 1) % order.length]!)
      slowest = Math.min(slowest, rate)
      latency += hop
    })
    return [slowest, latency]
  }

  #link(from: number, to: number): [rate: number, latency: number] {
    const { network } = this.#context
    return [rateOf(network, from, to), network.latency[from * network.size + to]!]
  }
}
