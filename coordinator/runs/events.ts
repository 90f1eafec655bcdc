import type { ErrorCode, HeadraceError } from '../../shared/errors.ts'
import type { RunId } from '../../shared/ids.ts'
import type { Plan, Strategy } from '../../shared/plan.ts'
import type { Precision } from '../../shared/precision.ts'
import type { FinishReason, Sampling, TokenLogprob, WorkerReport } from '../../shared/protocol/run-types.ts'
import type { RunTrace } from '../trace/run-trace.ts'

/** What a client wants computed, in token ids: text never reaches the cluster. */
export interface RunRequest {
  /** At least one id, and with `maxTokens` within the context length: the caller has checked both. */
  readonly promptTokens: Int32Array
  readonly maxTokens: number
  readonly sampling: Sampling
  /** Token ids that end the answer (they are reported as a token event and then `finished` with reason `stop`). */
  readonly stopTokens: readonly number[]
  /** Asked for by the client; absent leaves the choice to the planner. */
  readonly strategy?: Strategy
  readonly workers?: number
  /** One for each of `workers`. */
  readonly shares?: readonly number[]
  /** Aborted when the client has all the text it wants (a stop string came): the run then ends with `finished`, reason `stop`. */
  readonly enough?: AbortSignal
  /** The request may come again, to another coordinator: who asks, and under which name, as a hash. Its KV is kept a while. */
  readonly keepUnder?: string
  /** Raw logits of the first generated position, for `headrace verify`. */
  readonly wantLogits?: boolean
}

/** Something that a run had to make up for. */
export interface Repair {
  readonly worker: string
  readonly code: ErrorCode
  /** Of the prompt, that were given up with it. Of those, what had been handed over is kept. */
  readonly tokens: number
  /** Seconds; in a report, since the request's arrival. */
  readonly at: number
}

/**
 * What happens to a run, in order: planned, progress ..., prefilled, token ..., then exactly one finished; `failed_over`
 * may come anywhere between. Errors are thrown.
 */
export type RunEvent =
  | { readonly kind: 'planned'; readonly run: RunId; readonly plan: Plan; readonly queueSeconds: number }
  | { readonly kind: 'progress'; readonly processed: number; readonly total: number; readonly seconds: number }
  | { readonly kind: 'prefilled'; readonly seconds: number }
  | { readonly kind: 'logits'; readonly logits: Float32Array }
  | { readonly kind: 'token'; readonly index: number; readonly token: number; readonly logprob?: TokenLogprob }
  /** A decode node was lost, and its run goes on elsewhere. */
  | { readonly kind: 'failed_over'; readonly from: string; readonly code: ErrorCode; readonly attempt: number }
  | { readonly kind: 'finished'; readonly reason: FinishReason; readonly report: RunReport }

/** Where the time and the bytes of a run went. Seconds are intervals measured inside one process each. */
export interface RunReport {
  readonly run: RunId
  readonly plan: Plan
  /** What the numbers of each worker of the plan are true to. More than one only where that was allowed. */
  readonly precisions: Readonly<Record<string, Precision>>
  readonly queueSeconds: number
  /** From the request's arrival at `run()` to its first token. */
  readonly ttftSeconds: number
  readonly decodeSeconds: number
  readonly promptTokens: number
  readonly cachedTokens: number
  /** 1 unless a decode node was lost. */
  readonly attempts: number
  readonly repairs: readonly Repair[]
  readonly completionTokens: number
  readonly workers: readonly WorkerReport[]
  /** What took the largest part of the time to the first token, in words. */
  readonly bottleneck: string
  readonly trace: RunTrace
}

/**
 * The cluster as the HTTP side sees it. `run` throws coded errors; aborting `signal` (or leaving the generator early)
 * cancels the run on every worker.
 */
export interface Runs {
  run(request: RunRequest, signal: AbortSignal): AsyncGenerator<RunEvent, void>
  /**
   * Every candidate for a prompt of this length, best first, without running it. Throws `no_workers` or `no_decode_node`.
   * @param ask with `idle`, as if no run were on its way
   */
  plan(
    promptTokens: number,
    ask?: { strategy?: Strategy; workers?: number; shares?: readonly number[]; idle?: boolean },
  ): { chosen: Plan; candidates: readonly Plan[] }
  /** Why the cluster cannot serve now, or `undefined` if it can. */
  unready(): HeadraceError | undefined
  cluster(): ClusterView
}

/** `GET /v1/cluster`. */
export interface ClusterView {
  readonly workers: readonly WorkerView[]
  readonly links: readonly LinkView[]
  readonly runs: { readonly running: number; readonly waiting: number }
}

export interface WorkerView {
  readonly id: string
  readonly role: 'prefill' | 'decode'
  readonly state: 'downloading' | 'joining' | 'ready' | 'leaving' | 'quarantined' | 'lost'
  /** How much of the model has come, 0 to 1: of those that are downloading. */
  readonly modelShare?: number
  /** Known from joining on. */
  readonly precision?: Precision
  readonly engine: string
  readonly host: string
  readonly cores: number
  readonly threads: number
  readonly memoryBytes: number
  /** Memory that its runs may take, and what is not reserved of it. */
  readonly budgetBytes: number
  readonly freeBytes: number
  /** Fitted cost per layer in seconds: o + a n + b n (P + n/2); absent until calibrated. */
  readonly cost?: { readonly o: number; readonly a: number; readonly b: number }
  /** The same while other workers of its host compute; absent until that was seen. */
  readonly sharedCost?: { readonly o: number; readonly a: number; readonly b: number }
  readonly rttSeconds?: number
  readonly lastSeenSeconds: number
  readonly runs: number
}

/** A measured link: KV from one worker to another. */
export interface LinkView {
  readonly from: string
  readonly to: string
  readonly bytesPerSecond: number
  readonly rttSeconds: number
  readonly ageSeconds: number
}
