import type { Device, EngineName, Weights } from '../../shared/engine-name.ts'
import type { ErrorDetails } from '../../shared/errors.ts'
import type { ModelShape } from '../../shared/model-shape.ts'
import type { Wire } from '../../shared/plan.ts'
import type { Cost, DecodeAssignment, PrefillAssignment } from '../../shared/protocol/control.ts'
import type { FinishReason, TokenLogprob } from '../../shared/protocol/run-types.ts'
import type { Wanted } from '../kv/expected-blocks.ts'
import type { DeliveredBlock, KvBlock, Use } from '../prefill/exchange.ts'

/**
 * Messages between the main thread of a worker (sockets) and its compute thread (arithmetic): running the engine blocks
 * its thread, and a blocked socket would stall other workers. Memory of blocks that came over links may be shared, and is
 * only read, by both threads; all else is transferred, since the engine refuses memory that two threads can see.
 */

/** What the compute thread starts with. */
export interface ComputeConfig {
  readonly modelFolder: string
  readonly engine: EngineName
  readonly threads: number
  readonly weights: Weights | undefined
  readonly device: Device
  /** It is a decode node. */
  readonly decodes: boolean
  /** Most float32 bytes of KV cache that the runs of a decode node may take together. */
  readonly kvBudgetBytes: number
}

/** Main to compute. */
export type ComputeCommand =
  /** To the thread itself: it ends. */
  { readonly kind: 'end' } | RunCommand

/** What the host of runs is told. */
export type RunCommand =
  | { readonly kind: 'calibrate' }
  | { readonly kind: 'prefill'; readonly assignment: PrefillAssignment; readonly tokens: Int32Array }
  | { readonly kind: 'decode'; readonly assignment: DecodeAssignment; readonly tokens: Int32Array }
  | { readonly kind: 'deliver'; readonly run: string; readonly block: DeliveredBlock }
  /** A block out of the cache of a decode node, once it is there. */
  | { readonly kind: 'fetch'; readonly run: string; readonly id: number; readonly wanted: Wanted; readonly wire: Wire }
  | { readonly kind: 'stop'; readonly run: string }
  | { readonly kind: 'cancel'; readonly run: string }

/** What happens to one run, compute to main. */
export type ComputeEvent =
  | { readonly kind: 'published'; readonly block: KvBlock; readonly uses: readonly Use[] }
  | { readonly kind: 'released'; readonly layer: number }
  /** The bytes of these delivered blocks are needed no more. */
  | { readonly kind: 'used'; readonly ids: readonly number[] }
  /** A delivered block whose bytes are not those its maker summed: it was dropped. */
  | { readonly kind: 'damaged'; readonly layer: number; readonly start: number; readonly count: number }
  /** A layer of a block, computed again. */
  | {
      readonly kind: 'checked'
      readonly layer: number
      readonly start: number
      readonly count: number
      readonly wrong?: { readonly relative: number; readonly outlier: number }
    }
  | { readonly kind: 'fetched'; readonly id: number; readonly block: KvBlock }
  | { readonly kind: 'assembled' }
  | { readonly kind: 'logits'; readonly logits: Float32Array<ArrayBuffer> }
  | { readonly kind: 'token'; readonly index: number; readonly token: number; readonly logprob?: TokenLogprob }
  | {
      readonly kind: 'finished'
      readonly computeSeconds: number
      readonly attendSeconds: number
      readonly takeInSeconds?: number
      readonly movingSeconds?: number
      readonly waitSeconds: number
      readonly reason?: FinishReason
      /** Of the arithmetic, encoded. */
      readonly trace: Uint8Array<ArrayBuffer>
    }
  | { readonly kind: 'failed'; readonly code: string; readonly message: string; readonly details: ErrorDetails }

/** Compute to main. `error` ends the thread: loading failed, or the engine cannot go on. */
export type ComputeReply =
  | { readonly kind: 'notice'; readonly text: string }
  | { readonly kind: 'loaded'; readonly shape: ModelShape; readonly f16: boolean }
  | { readonly kind: 'calibrated'; readonly cost: Cost }
  /** The names of all KV that has outlived its run; whenever that has changed. */
  | { readonly kind: 'kept'; readonly names: readonly string[] }
  | { readonly kind: 'run'; readonly run: string; readonly event: ComputeEvent }
  | { readonly kind: 'error'; readonly code: string; readonly message: string; readonly details: ErrorDetails }
