/**
 * Who may start next. Short prompts go first, but waiting counts: the score of a waiting run is
 *
 *     predicted seconds of prefill - ageing x seconds waited
 *
 * and the smallest starts, the earlier among equals. All scores fall at the same rate, so the order of two runs needs no
 * clock; and a prompt of T seconds can only be overtaken by those that arrive within T / ageing seconds after it, so nobody
 * waits for ever. Seconds are predicted anew for all who wait when another one comes: what was learnt between two prompts
 * of one length must not change their order.
 *
 * A run holds a prefill place until its KV cache is assembled, and a decode place from its start to its end, because its
 * KV blocks reach the decode node from the first layer on. Nobody overtakes a run that waits for memory when it is its
 * turn: smaller ones would take what becomes free until the end of days.
 */
import { HeadraceError } from '../../shared/errors.ts'
import type { RunId } from '../../shared/ids.ts'

export interface QueueLimits {
  /** Runs that may wait, at least 1. */
  readonly maxWaiting: number
  /** Tokens that may wait in all. A prompt that would be alone in the queue is always let in. */
  readonly maxWaitingTokens: number
  /** Who would wait longer by what is known now is refused. */
  readonly maxWaitSeconds: number
  /**
   * Runs whose prompt is being computed by the whole cluster; one that has a part of the workers counts as that part. A
   * second one fills the bubbles of the first (`worker/compute/turns.ts`).
   */
  readonly maxPrefilling: number
  /** Runs that the decode nodes hold, prefilling ones included. */
  readonly maxDecoding: number
  /** How many seconds of prefill a second of waiting makes up for. */
  readonly ageing: number
}

export const DEFAULT_QUEUE_LIMITS: QueueLimits = {
  maxWaiting: 64,
  maxWaitingTokens: 2 ** 20,
  maxWaitSeconds: 300,
  maxPrefilling: 2,
  maxDecoding: 8,
  ageing: 0.2,
}

/** What a run takes of the cluster. */
export interface RunNeed {
  readonly tokens: number
  /** On its decode node, with the longest answer. */
  readonly kvBytes: number
}

/** A run on its way to a place. `arrivedAt` is in monotonic seconds. */
export interface QueuedRun extends RunNeed {
  readonly run: RunId
  /** Predicted, of prefill, with every worker for itself. */
  readonly seconds: number
  readonly arrivedAt: number
  /** Of the cluster's workers, which its plan takes; not planned yet: all. */
  readonly part?: number
}

/** Predicted seconds of prefill of a prompt of so many tokens, as of now. */
export type SecondsOf = (tokens: number) => number

export interface QueueState {
  readonly limits: QueueLimits
  /** In the order of arrival. */
  readonly waiting: readonly QueuedRun[]
  readonly prefilling: readonly QueuedRun[]
  readonly decoding: readonly QueuedRun[]
  /** When the last one started; nobody yet: never. */
  readonly startedAt: number
  /** Seconds from one start to the next of late, while somebody waited; and what was predicted for the earlier. 0: nobody has. */
  readonly secondsApart: number
  readonly predictedApart: number
  /** Predicted for the run that started last. */
  readonly startedSeconds: number
}

export const emptyQueue = (limits: QueueLimits = DEFAULT_QUEUE_LIMITS): QueueState => ({
  limits,
  waiting: [],
  prefilling: [],
  decoding: [],
  startedAt: Number.NEGATIVE_INFINITY,
  secondsApart: 0,
  predictedApart: 0,
  startedSeconds: 0,
})

/** Whether there is memory for a run beside those that have started. */
export type Room = (run: QueuedRun, started: readonly QueuedRun[]) => boolean

/** All who wait, by what is known now. */
export const reckoned = (queue: QueueState, secondsOf: SecondsOf): QueueState => ({
  ...queue,
  waiting: queue.waiting.map((run) => ({ ...run, seconds: secondsOf(run.tokens) })),
})

/** Lets a run wait, or throws `queue_full` with `retryAfterSeconds`: when to ask again, by what is known now. */
export function enqueue(queue: QueueState, run: QueuedRun): QueueState {
  const { maxWaiting, maxWaitingTokens, maxWaitSeconds } = queue.limits
  const waiting = queue.waiting.length
  const waitingTokens = queue.waiting.reduce((sum, { tokens }) => sum + tokens, 0)
  const tooMany = waiting >= maxWaiting
  const tooLong = waiting > 0 && waitingTokens + run.tokens > maxWaitingTokens
  if (tooMany || tooLong) {
    // When half of them have started: soon enough for one who asks alone, late enough for hundreds.
    const retry = retryAfterSeconds(waitSeconds(queue) / 2)
    throw new HeadraceError('queue_full', `${waiting} prompts of ${waitingTokens} tokens in all wait already`, {
      details: { waiting, waitingTokens, retryAfterSeconds: retry },
    })
  }
  const wait = waitSeconds(queue, run)
  if (wait > maxWaitSeconds)
    throw new HeadraceError('queue_full', `it would take ${Math.round(wait)} s until this prompt's turn`, {
      details: { waiting, waitingTokens, retryAfterSeconds: retryAfterSeconds(wait - maxWaitSeconds) },
    })
  return { ...queue, waiting: [...queue.waiting, run] }
}

/**
 * How long a run that arrives now would wait; without one, until all have started that wait now. What is predicted for
 * those ahead, by as much longer as starts have been apart of late: answers hold places, and machines have other work.
 */
export function waitSeconds(queue: QueueState, run?: QueuedRun): number {
  const { waiting, prefilling, limits, secondsApart, predictedApart } = queue
  if (waiting.length === 0 && hasPlace(queue)) return 0
  const ahead = run === undefined ? waiting : waiting.filter((other) => score(other, limits) <= score(run, limits))
  const work = [...prefilling, ...ahead].reduce((sum, { seconds }) => sum + seconds, 0)
  return work * (predictedApart > 0 ? Math.max(1, secondsApart / predictedApart) : 1)
}

/** The run that starts now, and the queue without it; nothing while places or memory are taken or nobody waits. */
export function next(
  queue: QueueState,
  now: number,
  room: Room = () => true,
): { readonly queue: QueueState; readonly run: QueuedRun } | undefined {
  const { limits, waiting, prefilling, decoding, startedAt } = queue
  if (!hasPlace(queue) || waiting.length === 0) return undefined
  const run = waiting.reduce((best, other) => (score(other, limits) < score(best, limits) ? other : best))
  const started = [...prefilling, ...decoding]
  // When nothing runs, nothing will become free: whoever plans it finds out what is wrong.
  if (started.length > 0 && !room(run, started)) return undefined
  const waited = run.arrivedAt <= startedAt
  const apart = waited && {
    secondsApart: smoothed(queue.secondsApart, now - startedAt),
    predictedApart: smoothed(queue.predictedApart, queue.startedSeconds),
  }
  const start = { prefilling: [...prefilling, run], startedAt: now, startedSeconds: run.seconds, ...apart }
  return { run, queue: { ...remove(queue, run.run), ...start } }
}

/** The run has a plan, which takes this part of the workers, more than 0 and at most 1. */
export const planned = (queue: QueueState, run: RunId, part: number): QueueState => ({
  ...queue,
  prefilling: queue.prefilling.map((other) => (other.run === run ? { ...other, part } : other)),
})

/** The run's KV cache is assembled: its prefill place is free, its decode place is not. */
export function prefilled(queue: QueueState, run: RunId): QueueState {
  const found = queue.prefilling.find((other) => other.run === run)
  if (found === undefined) return queue
  return { ...queue, prefilling: without(queue.prefilling, run), decoding: [...queue.decoding, found] }
}

/** The run is over, however it ended. */
export const release = (queue: QueueState, run: RunId): QueueState => ({
  ...queue,
  prefilling: without(queue.prefilling, run),
  decoding: without(queue.decoding, run),
})

/** The client left before the run started. */
export const remove = (queue: QueueState, run: RunId): QueueState => ({
  ...queue,
  waiting: without(queue.waiting, run),
})

const without = (runs: readonly QueuedRun[], run: RunId) => runs.filter((other) => other.run !== run)

const score = ({ seconds, arrivedAt }: QueuedRun, { ageing }: QueueLimits): number => seconds + ageing * arrivedAt

const hasPlace = ({ limits, prefilling, decoding }: QueueState): boolean =>
  taken(prefilling) < limits.maxPrefilling && prefilling.length + decoding.length < limits.maxDecoding

/** Sixteenths of a cluster add up to it, whatever a binary fraction says. */
const taken = (prefilling: readonly QueuedRun[]): number => prefilling.reduce((sum, { part = 1 }) => sum + part, 1e-9)

/** The weight of a new gap between starts. */
const GAIN = 0.2

const smoothed = (old: number, found: number): number => (old === 0 ? found : old + GAIN * (found - old))

/** What a client can be told: a whole number of seconds, neither at once nor next day. */
const retryAfterSeconds = (seconds: number): number => Math.min(Math.max(Math.ceil(seconds), 1), MAX_RETRY_SECONDS)

const MAX_RETRY_SECONDS = 600
