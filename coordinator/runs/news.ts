import type { Clock } from '../../shared/clock.ts'
import type { HeadraceError } from '../../shared/errors.ts'
import type { WorkerEvent } from '../../shared/protocol/control.ts'
import type { Watch } from './progress.ts'
import type { RunFollower } from './workers.ts'

/** What a worker says about a run. */
export interface WorkerNews {
  readonly worker: string
  readonly event: WorkerEvent
  readonly payload: Uint8Array
}

/** What can happen to a run while it is with its workers. */
export type News =
  | ({ readonly kind: 'said' } & WorkerNews)
  | { readonly kind: 'gone'; readonly worker: string; readonly error: HeadraceError }
  /** Nobody has said anything for longer than the prediction allows. */
  | { readonly kind: 'stalled'; readonly seconds: number }

/**
 * What happens to a run, in order. Bounded by what a run can say: a line per layer and worker, one per token; and links
 * that fill faster than they are read are paused.
 */
export class NewsQueue implements RunFollower {
  readonly #clock: Clock
  readonly #watch: Watch
  readonly #unread: News[] = []
  #error: HeadraceError | undefined
  #wake: (() => void) | undefined

  constructor(clock: Clock, watch: Watch) {
    this.#clock = clock
    this.#watch = watch
  }

  onEvent(worker: string, event: WorkerEvent, payload: Uint8Array): void {
    this.#watch.heard()
    this.#add({ kind: 'said', worker, event, payload })
  }

  onLost(worker: string, error: HeadraceError): void {
    this.#add({ kind: 'gone', worker, error })
  }

  /** Nothing more is of interest. */
  fail(error: HeadraceError): void {
    this.#error ??= error
    this.#wake?.()
  }

  async next(): Promise<News> {
    for (;;) {
      if (this.#error !== undefined) throw this.#error
      const news = this.#unread.shift()
      if (news !== undefined) return news
      await this.#wakened()
    }
  }

  #add(news: News): void {
    this.#unread.push(news)
    this.#wake?.()
  }

  /** Resolves when there is something to look at. */
  async #wakened(): Promise<void> {
    const since = this.#clock.now()
    const waiting = new AbortController()
    const late = (): void => {
      const seconds = this.#clock.now() - since
      this.#watch.heard()
      this.#add({ kind: 'stalled', seconds })
    }
    this.#outwait(waiting.signal).then(late, () => undefined) // news came first
    await new Promise<void>((resolve) => {
      this.#wake = resolve
    })
    waiting.abort()
  }

  /** Resolves when the run has stalled. A run ahead of it may get on while this one sleeps. */
  async #outwait(signal: AbortSignal): Promise<void> {
    for (let left = this.#watch.secondsLeft(); left > 0; left = this.#watch.secondsLeft())
      await this.#clock.sleep(left, signal)
  }
}
