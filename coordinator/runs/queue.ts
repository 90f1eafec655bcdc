/**
 * Who may start next. Short prompts go first, but waiting counts: the score of a waiting run is
 *
 *     tokens - ageTokensPerSecond x seconds waited
 *
 * and the smallest starts, the earlier among equals. All scores fall at the same rate, so the order of two runs never
 * changes while they wait and needs no clock; and a prompt of T tokens can only be overtaken by those that arrive within
 * T / ageTokensPerSecond seconds after it, so nobody waits for ever.
 *
 * A run holds a prefill place until its KV cache is assembled, and a decode place from its start to its end, because its
 * KV blocks reach the decode node from the first layer on.
 */
import { HeadraceError } from '../../shared/errors.ts'
import type { RunId } from '../../shared/ids.ts'

export interface QueueLimits {
  /** Runs that may wait, at least 1. */
  readonly maxWaiting: number
  /** Tokens that may wait in all. A prompt that would be alone in the queue is always let in. */
  readonly maxWaitingTokens: number
  /** Runs whose prompt is being computed. A second one fills the bubbles of the first (`worker/compute/turns.ts`). */
  readonly maxPrefilling: number
  /** Runs that the decode nodes hold, prefilling ones included. */
  readonly maxDecoding: number
  /** How many tokens a second of waiting makes up for. */
  readonly ageTokensPerSecond: number
}

export const DEFAULT_QUEUE_LIMITS: QueueLimits = {
  maxWaiting: 64,
  maxWaitingTokens: 2 ** 20,
  maxPrefilling: 2,
  maxDecoding: 4,
  ageTokensPerSecond: 1000,
}

/** A run on its way to a place. `arrivedAt` is in monotonic seconds. */
export interface QueuedRun {
  readonly run: RunId
  readonly tokens: number
  readonly arrivedAt: number
}

export interface QueueState {
  readonly limits: QueueLimits
  /** In the order of arrival. */
  readonly waiting: readonly QueuedRun[]
  readonly prefilling: readonly RunId[]
  readonly decoding: readonly RunId[]
}

export const emptyQueue = (limits: QueueLimits = DEFAULT_QUEUE_LIMITS): QueueState => ({
  limits,
  waiting: [],
  prefilling: [],
  decoding: [],
})

/**
 * Lets a run wait, or throws `queue_full` with `retryAfterSeconds`: the time that the waiting tokens take at
 * `tokensPerSecond`, the prefill rate measured of late (0 while nothing has been measured).
 */
export function enqueue(queue: QueueState, run: QueuedRun, tokensPerSecond: number): QueueState {
  const { maxWaiting, maxWaitingTokens } = queue.limits
  const waiting = queue.waiting.length
  const waitingTokens = queue.waiting.reduce((sum, { tokens }) => sum + tokens, 0)
  const tooMany = waiting >= maxWaiting
  const tooLong = waiting > 0 && waitingTokens + run.tokens > maxWaitingTokens
  if (tooMany || tooLong)
    throw new HeadraceError('queue_full', `${waiting} prompts of ${waitingTokens} tokens in all wait already`, {
      details: { waiting, waitingTokens, retryAfterSeconds: retryAfterSeconds(waitingTokens, tokensPerSecond) },
    })
  return { ...queue, waiting: [...queue.waiting, run] }
}

/** The run that starts now, and the queue without it; nothing while all places are taken or nobody waits. */
export function next(queue: QueueState): { readonly queue: QueueState; readonly run: QueuedRun } | undefined {
  const { limits, waiting, prefilling, decoding } = queue
  const free = prefilling.length < limits.maxPrefilling && prefilling.length + decoding.length < limits.maxDecoding
  if (!free || waiting.length === 0) return undefined
  const score = ({ tokens, arrivedAt }: QueuedRun) => tokens + limits.ageTokensPerSecond * arrivedAt
  const run = waiting.reduce((best, other) => (score(other) < score(best) ? other : best))
  return { run, queue: { ...remove(queue, run.run), prefilling: [...prefilling, run.run] } }
}

/** The run's KV cache is assembled: its prefill place is free, its decode place is not. */
export function prefilled(queue: QueueState, run: RunId): QueueState {
  if (!queue.prefilling.includes(run)) return queue
  return { ...queue, prefilling: queue.prefilling.filter((id) => id !== run), decoding: [...queue.decoding, run] }
}

/** The run is over, however it ended. */
export const release = (queue: QueueState, run: RunId): QueueState => ({
  ...queue,
  prefilling: queue.prefilling.filter((id) => id !== run),
  decoding: queue.decoding.filter((id) => id !== run),
})

/** The client left before the run started. */
export const remove = (queue: QueueState, run: RunId): QueueState => ({
  ...queue,
  waiting: queue.waiting.filter((other) => other.run !== run),
})

/** What a client can be told: a whole number of seconds, neither at once nor next day. */
function retryAfterSeconds(tokens: number, tokensPerSecond: number): number {
  const seconds = tokensPerSecond > 0 ? Math.ceil(tokens / tokensPerSecond) : 1
  return Math.min(Math.max(seconds, 1), MAX_RETRY_SECONDS)
}

const MAX_RETRY_SECONDS = 600
