import type { WorkerId } from '../../shared/ids.ts'
import type { ModelShape } from '../../shared/model-shape.ts'
import type { Wire } from '../../shared/plan.ts'
import type { Cost } from '../../shared/protocol/control.ts'

/** All that a plan depends on. Only workers and decode nodes that are ready. */
export interface PlanFacts {
  readonly shape: ModelShape
  readonly promptTokens: number
  /** Most tokens that the answer may have, for which the decode node needs room too. Default: 0. */
  readonly maxTokens?: number
  readonly workers: readonly PrefillFacts[]
  readonly decode: readonly DecodeFacts[]
  /** What the receiver `to` measured when fetching from `from`, keyed by `linkKey(from, to)`. */
  readonly links: ReadonlyMap<string, LinkFacts>
  /** Narrowest precision that a KV block may have on a link. */
  readonly narrowestWire: Wire
  /** What runs have taken before their first and after their last piece of arithmetic, seconds. Default: 0. */
  readonly edgeSeconds?: number
  /** Default: 1 and 1. */
  readonly pace?: Pace
  /** Most tokens wanted in one KV block. Default: 512. */
  readonly blockTokens?: number
  /** Prompts that wait behind this one. Default: 0. */
  readonly behind?: number
}

/**
 * How many times as long arithmetic has taken of late, in all, as the costs of single workers say: where one of them does all,
 * and where several have to wait for each other.
 */
export interface Pace {
  readonly solo: number
  readonly split: number
}

export interface PrefillFacts {
  readonly id: WorkerId
  readonly host: string
  /** Of the host. */
  readonly cores: number
  readonly threads: number
  /** Runs that it holds now, each of which its costs are longer by. */
  readonly runs: number
  readonly cost: Cost
  /** Cost while other workers of the same host compute too; absent: not known yet, as alone. */
  readonly sharedCost?: Cost
  /** Memory that runs may take here, bytes; absent: no limit known. */
  readonly budgetBytes?: number
  /** Of the control link: a fallback for links that are not measured. */
  readonly rttSeconds?: number
}

export interface DecodeFacts {
  readonly id: WorkerId
  readonly host: string
  readonly cores: number
  readonly threads: number
  /** Runs that it holds now, each of which its cost is longer by. */
  readonly runs: number
  /** Absent: not calibrated, so it computes the prompt's last token alone. */
  readonly cost?: Cost
  /** Memory that is free for KV, bytes; absent: no limit known. */
  readonly budgetBytes?: number
  readonly rttSeconds?: number
}

export interface LinkFacts {
  readonly bytesPerSecond: number
  readonly rttSeconds: number
}

export const linkKey = (from: string, to: string): string => `${from} ${to}`
