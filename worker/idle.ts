import { setFlagsFromString } from 'node:v8'
import { runInNewContext } from 'node:vm'
import type { Clock } from '../shared/clock.ts'

/** A pause shorter than this is a gap between two prompts: what is kept for reuse is about to be used. */
const IDLE_SECONDS = 1

/** Gives memory back once nothing has run for a while. */
export class Idle {
  readonly #clock: Clock
  readonly #trim: () => void
  #waiting: AbortController | undefined

  constructor(clock: Clock, trim: () => void) {
    this.#clock = clock
    this.#trim = trim
  }

  /** Something runs. */
  end(): void {
    this.#waiting?.abort()
    this.#waiting = undefined
  }

  /** Nothing runs any more. */
  begin(): void {
    this.end()
    const waiting = new AbortController()
    this.#waiting = waiting
    this.#clock.sleep(IDLE_SECONDS, waiting.signal).then(this.#trim, () => undefined) // work came first
  }
}

/**
 * Collects this thread's garbage now. Array buffers weigh nothing in the eyes of the collector until it runs, and a
 * worker that idles after a run would hold the run's KV until the next one.
 */
export function collectGarbage(): void {
  setFlagsFromString('--expose-gc')
  const gc = runInNewContext('gc') as () => void
  gc()
}
