import type { Clock } from '../../shared/clock.ts'
import { abortError, asHeadraceError } from '../../shared/errors.ts'
import type { RunId } from '../../shared/ids.ts'
import { emptyQueue, enqueue, next, prefilled, type QueueLimits, type QueueState, release, remove } from './queue.ts'

/** A place in the cluster. */
export interface Turn {
  /** The prompt is computed: the next one may start. */
  prefilled(): void
  done(): void
}

/** The queue (`queue.ts`, pure) with somebody waiting in it. */
export class Admission {
  readonly #clock: Clock
  readonly #waiting = new Map<RunId, () => void>()
  #queue: QueueState

  constructor(clock: Clock, limits?: QueueLimits) {
    this.#clock = clock
    this.#queue = emptyQueue(limits)
  }

  get running(): number {
    return this.#queue.prefilling.length + this.#queue.decoding.length
  }

  get waiting(): number {
    return this.#queue.waiting.length
  }

  /**
   * Waits for a place. Throws `queue_full` at once if there is no room to wait, or the signal's coded error.
   * @param tokensPerSecond the prefill rate to estimate the wait by, 0 if unknown
   */
  async enter(run: RunId, tokens: number, tokensPerSecond: number, signal: AbortSignal): Promise<Turn> {
    if (signal.aborted) throw abortError(signal)
    this.#queue = enqueue(this.#queue, { run, tokens, arrivedAt: this.#clock.now() }, tokensPerSecond)
    await new Promise<void>((resolve, reject) => {
      const leave = (): void => {
        if (!this.#waiting.delete(run)) return
        this.#queue = remove(this.#queue, run)
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
      prefilled: () => this.#change(prefilled(this.#queue, run)),
      done: () => this.#change(release(this.#queue, run)),
    }
  }

  #change(queue: QueueState): void {
    this.#queue = queue
    this.#startNext()
  }

  #startNext(): void {
    for (let start = next(this.#queue); start; start = next(this.#queue)) {
      this.#queue = start.queue
      const begin = this.#waiting.get(start.run.run)
      this.#waiting.delete(start.run.run)
      begin?.()
    }
  }
}
