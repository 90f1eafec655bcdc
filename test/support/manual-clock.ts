import type { Clock } from '../../shared/clock.ts'
import { abortError } from '../../shared/errors.ts'

interface Sleeper {
  readonly until: number
  readonly seconds: number
  readonly wake: () => void
}

/** A clock that stands still until it is told to go on. */
export class ManualClock implements Clock {
  #now = 0
  #sleepers: Sleeper[] = []
  #awaited: { readonly seconds: number; readonly found: () => void }[] = []

  now(): number {
    return this.#now
  }

  sleep(seconds: number, signal?: AbortSignal): Promise<void> {
    return new Promise((resolve, reject) => {
      if (signal?.aborted) return reject(abortError(signal))
      const sleeper = { until: this.#now + seconds, seconds, wake: resolve }
      this.#sleepers.push(sleeper)
      signal?.addEventListener('abort', () => {
        this.#sleepers = this.#sleepers.filter((other) => other !== sleeper)
        reject(abortError(signal))
      })
      for (const { found, seconds: awaited } of this.#awaited) if (awaited === seconds) found()
    })
  }

  /** Lets time pass; whoever's time has come wakes. */
  advance(seconds: number): void {
    this.#now += seconds
    const due = this.#sleepers.filter(({ until }) => until <= this.#now)
    this.#sleepers = this.#sleepers.filter(({ until }) => until > this.#now)
    for (const { wake } of due) wake()
  }

  /** Resolves as soon as somebody sleeps for exactly so long. */
  sleeping(seconds: number): Promise<void> {
    if (this.#sleepers.some((sleeper) => sleeper.seconds === seconds)) return Promise.resolve()
    return new Promise((found) => this.#awaited.push({ seconds, found }))
  }
}
