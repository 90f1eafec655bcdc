import type { Clock } from '../../shared/clock.ts'
import { abortError, asHeadraceError } from '../../shared/errors.ts'
import type { RunId } from '../../shared/ids.ts'
import {
  emptyQueue,
  enqueue,
  next,
  planned,
  prefilled,
  type QueueLimits,
  type QueueState,
  type Room,
  type RunNeed,
  reckoned,
  release,
  remove,
  type SecondsOf,
} from './queue.ts'

/** A place in the cluster. */
export interface Turn {
  /** The run has a plan, which takes this part of the workers. */
  planned(part: number): void
  /** The prompt is computed: the next one may start. */
  prefilled(): void
  done(): void
}

/** Memory that runs have to share. */
export interface Memory {
  /** Throws if a run could not have so much even if it were alone. */
  check(kvBytes: number): void
  readonly room: Room
}

const ENDLESS: Memory = { check: () => undefined, room: () => true }

export interface AdmissionOptions {
  readonly clock: Clock
  readonly secondsOf: SecondsOf
  readonly memory?: Memory
  readonly limits?: QueueLimits | undefined
}

/** The queue (`queue.ts`, pure) with somebody waiting in it. */
export class Admission {
  readonly #clock: Clock
  readonly #secondsOf: SecondsOf
  readonly #memory: Memory
  readonly #waiting = new Map<RunId, () => void>()
  #queue: QueueState

  constructor({ clock, secondsOf, memory = ENDLESS, limits }: AdmissionOptions) {
    this.#clock = clock
    this.#secondsOf = secondsOf
    this.#memory = memory
    this.#queue = emptyQueue(limits)
  }

  get running(): number {
    return this.#queue.prefilling.length + this.#queue.decoding.length
  }

  get waiting(): number {
    return this.#queue.waiting.length
  }

  /**
   * Waits for a place. Throws `queue_full` at once if there is no room to wait, what `Memory.check` throws, or the
   * signal's coded error.
   */
  async enter(run: RunId, need: RunNeed, signal: AbortSignal): Promise<Turn> {
    if (signal.aborted) throw abortError(signal)
    this.#memory.check(need.kvBytes)
    const seconds = this.#secondsOf(need.tokens)
    const waiting = reckoned(this.#queue, this.#secondsOf)
    this.#queue = enqueue(waiting, { run, ...need, seconds, arrivedAt: this.#clock.now() })
    await new Promise<void>((resolve, reject) => {
      const leave = (): void => {
        if (!this.#waiting.delete(run)) return
        // Those behind may have waited for this one alone.
        this.#change(remove(this.#queue, run))
        reject(asHeadraceError(signal.reason, 'cancelled'))
      }
      signal.addEventListener('abort', leave, { once: true })
      this.#waiting.set(run, () => {
        signal.removeEventListener('abort', leave)
        resolve()
      })
      this.#startNext()
    })
    return {
      planned: (part) => this.#change(planned(this.#queue, run, part)),
      prefilled: () => this.#change(prefilled(this.#queue, run)),
      done: () => this.#change(release(this.#queue, run)),
    }
  }

  #change(queue: QueueState): void {
    this.#queue = queue
    this.#startNext()
  }

  #startNext(): void {
    const start = () => next(this.#queue, this.#clock.now(), this.#memory.room)
    for (let started = start(); started; started = start()) {
      this.#queue = started.queue
      const begin = this.#waiting.get(started.run.run)
      this.#waiting.delete(started.run.run)
      begin?.()
    }
  }
}
