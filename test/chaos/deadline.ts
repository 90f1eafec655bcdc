/**
 * A signal that aborts with `outer`, or after so many seconds. `AbortSignal.any` with `AbortSignal.timeout` does not do:
 * a timeout that nothing else refers to may be collected before it fires (seen with Node 20).
 */
export class Deadline {
  readonly #controller = new AbortController()
  readonly #outer: AbortSignal
  readonly #timer: NodeJS.Timeout
  readonly #leave = (): void => this.#controller.abort(this.#outer.reason)
  /** The time is over. */
  passed = false

  constructor(seconds: number, outer: AbortSignal) {
    this.#outer = outer
    this.#timer = setTimeout(() => {
      this.passed = true
      this.#controller.abort(new Error(`${seconds} s are over`))
    }, seconds * 1000)
    if (outer.aborted) this.#leave()
    outer.addEventListener('abort', this.#leave, { once: true })
  }

  get signal(): AbortSignal {
    return this.#controller.signal
  }

  /** What it was for is done. */
  clear(): void {
    clearTimeout(this.#timer)
    this.#outer.removeEventListener('abort', this.#leave)
  }
}
