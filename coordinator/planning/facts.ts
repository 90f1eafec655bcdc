/** All that a plan depends on. */
import type { WorkerId } from '../../shared/ids.ts'
import type { ModelShape } from '../../shared/model-shape.ts'
import type { Wire } from '../../shared/plan.ts'
import type { Cost } from '../../shared/protocol/control.ts'

/** Only workers and decode nodes that are ready. */
export interface PlanFacts {
  readonly shape: ModelShape
  readonly promptTokens: number
  /** Most tokens that will be generated, for the memory of the decode node. */
  readonly maxTokens?: number
  readonly workers: readonly PrefillFacts[]
  readonly decode: readonly DecodeFacts[]
  /** By `linkKey`: from the sender of KV to its receiver. A link that is not measured is absent. */
  readonly links: ReadonlyMap<string, LinkFacts>
  /** The narrowest precision that KV may have between machines. */
  readonly narrowestWire: Wire
  /** Most tokens wanted in one KV block. */
  readonly blockTokens?: number
}

export interface PrefillFacts {
  readonly id: WorkerId
  readonly host: string
  readonly cores: number
  readonly threads: number
  /** Alone on its host. */
  readonly cost: Cost
  /** While other workers of its host compute too. */
  readonly sharedCost?: Cost
  readonly budgetBytes?: number
  readonly rttSeconds?: number
}

export interface DecodeFacts {
  readonly id: WorkerId
  readonly host: string
  readonly cores: number
  readonly threads: number
  /** Runs that it holds now. */
  readonly runs: number
  readonly cost?: Cost
  /** What its runs have left of it. */
  readonly budgetBytes?: number
  readonly rttSeconds?: number
}

export interface LinkFacts {
  readonly bytesPerSecond: number
  readonly rttSeconds: number
}

export const linkKey = (from: string, to: string): string => `${from} ${to}`
