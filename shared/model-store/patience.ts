import { HeadraceError } from '../errors.ts'

/** A time limit that follows progress: it runs out only if nothing comes for so long. */
export class Patience {
  readonly signal: AbortSignal
  readonly #timer: NodeJS.Timeout

  /** @param signal ends the wait too */
  constructor(seconds: number, what: string, signal: AbortSignal) {
    const late = new AbortController()
    this.signal = AbortSignal.any([signal, late.signal])
    const error = new HeadraceError('link_closed', `${what}: nothing came for ${seconds} s`)
    this.#timer = setTimeout(() => late.abort(error), seconds * 1000)
  }

  /** Something has come. */
  progress(): void {
    this.#timer.refresh()
  }

  end(): void {
    clearTimeout(this.#timer)
  }
}
