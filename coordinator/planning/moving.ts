/**
 * What a worker's sockets have to move. Where no core is free for that, it takes time from arithmetic: s seconds for each
 * token whose K and V of a layer enter or leave (`shared/protocol/control.ts`). It is counted in tokens, whatever the
 * precision: half of the bytes take two thirds of it, as frames and wake-ups stay the same.
 */
import { type Span, type Strategy, spanTokens } from '../../shared/plan.ts'
import type { Cost } from '../../shared/protocol/control.ts'

/** Tokens that one layer moves. */
export interface Moved {
  /** A worker's own for the next one; those for the decode node are all that it has. */
  readonly prefix: number
  /** Those of others that come, and those of them that go on to the next worker. */
  readonly received: number
  readonly relayed: number
}

/** Of each worker, in their order. */
export function movedTokens(strategy: Strategy, spans: readonly (readonly Span[])[]): Moved[] {
  const count = spans.length
  const ring = strategy === 'ring'
  const tokens = spans.map(spanTokens)
  const all = tokens.reduce((sum, own) => sum + own, 0)
  let before = 0
  return tokens.map((own, at) => {
    const next = ring ? (at + 1) % count : at + 1
    const sends = next < count && next !== at
    const received = ring ? all - own : before
    before += own
    // What goes round ends with the worker before its maker.
    return { prefix: sends ? own : 0, received, relayed: sends ? received - (ring ? tokens[next]! : 0) : 0 }
  })
}

/** How often each own token leaves a worker, and each one of others enters or leaves it. */
export interface Passes {
  readonly own: number
  readonly others: number
}

export const CHAIN_END: Passes = { own: 1, others: 1 }
export const CHAIN_LINK: Passes = { own: 2, others: 2 }
export const DECODE_NODE: Passes = { own: 0, others: 1 }

export const ringPasses = (count: number): Passes =>
  count < 2 ? CHAIN_END : { own: 2, others: 1 + (count - 2) / (count - 1) }

/** The cost of a worker with all that it moves. */
export function costWithMoving(cost: Cost, { own, others }: Passes): Cost {
  const { o, a, b, c = 0, s = 0 } = cost
  return s === 0 ? cost : { o, a: a + s * own, b, c: c + s * others }
}
