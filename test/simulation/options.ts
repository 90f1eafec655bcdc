import { STRATEGIES, type Strategy } from '../../shared/plan.ts'
import { Chance } from './chance.ts'
import { drawFaults, type Fault } from './faults.ts'
import type { ToyRequest } from './toy-model.ts'

/** Everything about a simulation but the order of its events follows from its seed. */
export interface Options {
  readonly seed: number
  readonly layers: number
  readonly chunkTokens: number
  /** Overrides the planner's: its blocks are made for prompts of thousands of tokens. */
  readonly blockTokens: number
  readonly workers: readonly WorkerOptions[]
  readonly queue: {
    readonly maxWaiting: number
    readonly maxWaitingTokens: number
    readonly maxPrefilling: number
    readonly maxDecoding: number
    readonly maxWaitSeconds: number
    readonly ageing: number
  }
  readonly network: { delay: number; bytesPerSecond: number; unlike: number; sendBuffer: number; jitter: number }
  /** Workers may measure their links. Costly, so in few simulations. */
  readonly measuresLinks: boolean
  /** Decode nodes compute every KV block again. Only then does anybody lie. */
  readonly selfCheck: boolean
  readonly clients: readonly ClientOptions[]
  readonly faults: readonly Fault[]
  /** When faults end, and what is to last from then on heals. */
  readonly healAt: number
  /** Then either all heals, or a core alone and all else is dead for ever (or stands still). */
  readonly core: 'all' | 'least'
}

export interface WorkerOptions {
  readonly name: string
  readonly role: 'prefill' | 'decode'
  /** Of a layer. */
  readonly tokenSeconds: number
  readonly startAt: number
  readonly clockOffset: number
  /** What it says it has for KV, and what it has. */
  readonly budgetBytes: number
  readonly kvBudgetBytes: number
}

export interface ClientOptions extends ToyRequest {
  readonly at: number
  readonly strategy?: Strategy
  /** It goes away so long after it has come. */
  readonly leavesAfter?: number
  /** After so many tokens it has what it wants. */
  readonly enoughAfter?: number
  /** Seconds that it takes for each event. */
  readonly readSeconds: number
  /** Who asks again finds what was computed, if a decode node has kept it. */
  readonly keepUnder?: string
}

export const PLENTY = 2 ** 24
/** A decode node that says it has room, and has for very short prompts only. */
const LITTLE = 2500

export function drawOptions(seed: number): Options {
  const shape = new Chance(seed, 'shape')
  const workload = new Chance(seed, 'workload')
  const layers = shape.whole(2, 4)
  const workers = drawWorkers(shape)
  const clients = Array.from({ length: workload.whole(1, 5) }, () => drawClient(workload))
  const healAt = 6
  const selfCheck = new Chance(seed, 'self-check').hits(0.4)
  const faults = drawFaults(seed, workers, healAt, selfCheck)
  return {
    seed,
    layers,
    chunkTokens: shape.pick([3, 6, 12, 24]),
    blockTokens: shape.pick([3, 6, 12, 24]),
    workers,
    queue: {
      maxWaiting: shape.pick([1, 2, 64]),
      maxWaitingTokens: shape.pick([100, 1e6]),
      maxPrefilling: shape.whole(1, 3),
      maxDecoding: shape.whole(1, 4),
      maxWaitSeconds: 1e9,
      ageing: 1,
    },
    network: {
      delay: shape.spread(1e-4, 0.03),
      bytesPerSecond: shape.spread(2e4, 2e7),
      unlike: shape.spread(1, 10),
      sendBuffer: shape.pick([1, 1000, 4000, 64_000]),
      jitter: shape.pick([0, 0.2, 2]),
    },
    measuresLinks: shape.hits(0.03),
    selfCheck,
    clients,
    faults,
    healAt,
    core: faults.length === 0 ? 'all' : shape.pick(['all', 'least'] as const),
  }
}

function drawWorkers(shape: Chance): WorkerOptions[] {
  const tokenSeconds = shape.spread(5e-4, 3e-2)
  const draw = (name: string, role: 'prefill' | 'decode'): WorkerOptions => {
    const cheats = role === 'decode' && shape.hits(0.08)
    const budgetBytes = cheats || !shape.hits(0.1) ? PLENTY : shape.whole(2000, 20_000)
    return {
      name,
      role,
      tokenSeconds: tokenSeconds * shape.between(0.5, 2),
      startAt: shape.hits(0.15) ? shape.between(0, 4) : shape.between(0, 0.2),
      clockOffset: shape.between(0, 1e5),
      budgetBytes,
      kvBudgetBytes: cheats ? LITTLE : PLENTY,
    }
  }
  return [
    ...Array.from({ length: shape.whole(1, 4) }, (_, i) => draw(`w${i + 1}`, 'prefill')),
    ...Array.from({ length: shape.whole(1, 2) }, (_, i) => draw(`d${i + 1}`, 'decode')),
  ]
}

function drawClient(workload: Chance): ClientOptions {
  const promptTokens = Int32Array.from({ length: workload.whole(1, workload.pick([4, 30, 60, 100])) }, () =>
    workload.whole(0, 23),
  )
  const greedy = workload.hits(0.5)
  const strategy = workload.pick([undefined, undefined, ...STRATEGIES])
  return {
    at: workload.between(0.5, 3.5),
    promptTokens,
    maxTokens: workload.whole(1, 20),
    sampling: {
      temperature: greedy ? 0 : workload.between(0.5, 2),
      topP: greedy ? 1 : workload.pick([1, 0.9]),
      topK: greedy ? 0 : workload.pick([0, 5]),
      seed: workload.whole(0, 2 ** 32 - 1),
    },
    stopTokens: workload.hits(0.3) ? [workload.whole(0, 23), workload.whole(0, 23)] : [],
    ...(strategy !== undefined && { strategy }),
    ...(workload.hits(0.15) && { leavesAfter: workload.between(0, 3) }),
    ...(workload.hits(0.15) && { enoughAfter: workload.whole(1, 8) }),
    readSeconds: workload.hits(0.2) ? workload.between(0.01, 0.3) : 0,
    ...(workload.hits(0.5) && { keepUnder: `key-${workload.whole(1, 2)}` }),
  }
}
