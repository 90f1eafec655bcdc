/**
 * What a worker's sockets have to move in a layer. Where no core is free for that, it takes time from arithmetic: s seconds
 * for every byte that enters or leaves (`shared/protocol/control.ts`).
 */
import { type Span, type Strategy, spanTokens, type Wire } from '../../shared/plan.ts'
import type { Cost } from '../../shared/protocol/control.ts'

/** Who computes what, and how it travels: of a layout or of a plan. */
export interface Sending {
  readonly strategy: Strategy
  readonly workers: readonly {
    readonly spans: readonly Span[]
    readonly prefixWire: Wire
    readonly handoffWire: Wire
  }[]
}

/** Bytes of one layer. */
export interface Moved {
  /** A worker's own blocks for the decode node, and for the next worker. */
  readonly handoff: number
  readonly prefix: number
  /** Blocks of others that come, and those of them that go on to the next worker. */
  readonly received: number
  readonly relayed: number
}

/** Of each worker, in their order. */
export function movedBytes({ strategy, workers }: Sending, wireBytes: Readonly<Record<Wire, number>>): Moved[] {
  const count = workers.length
  const ring = strategy === 'ring'
  const made = workers.map(({ spans, prefixWire }) => spanTokens(spans) * wireBytes[prefixWire])
  const all = made.reduce((sum, bytes) => sum + bytes, 0)
  let before = 0
  return workers.map(({ spans, handoffWire }, at) => {
    const own = made[at]!
    const next = ring ? (at + 1) % count : at + 1
    const sends = next < count && next !== at
    const received = ring ? all - own : before
    before += own
    // What goes round ends with the worker before its maker.
    const relayed = !sends ? 0 : ring ? received - made[next]! : received
    return { handoff: spanTokens(spans) * wireBytes[handoffWire], prefix: sends ? own : 0, received, relayed }
  })
}

/** How often each own token's bytes leave a worker, and each other's enter or leave it. */
export interface Passes {
  readonly own: number
  readonly others: number
}

export const CHAIN_TAIL: Passes = { own: 1, others: 1 }
export const CHAIN_LINK: Passes = { own: 2, others: 2 }

export const ringPasses = (count: number): Passes =>
  count < 2 ? CHAIN_TAIL : { own: 2, others: 1 + (count - 2) / (count - 1) }

/** The cost of a worker with what it moves, every token taking `bytes` each time: linear in tokens, as all of it is. */
export function costWithMoving(cost: Cost, bytes: number, { own, others }: Passes): Cost {
  const { o, a, b, c = 0, s = 0 } = cost
  return s === 0 ? cost : { o, a: a + s * bytes * own, b, c: c + s * bytes * others }
}
