import { abortError, HeadraceError } from '../errors.ts'

/** The source of frames, told to stop when the queue is full and to go on when half of it has been taken. */
export interface Flow {
  pause(): void
  resume(): void
}

interface Waiter {
  resolve(frame: Uint8Array | undefined): void
  reject(error: HeadraceError): void
}

/** The receiving half of a link: frames wait here until `take`. The same for every kind of link. */
export class FrameQueue {
  readonly #limit: number
  readonly #mostBytes: number
  readonly #flow: Flow
  #frames: Uint8Array[] = []
  /** Of the frames that wait. */
  #bytes = 0
  #paused = false
  #ended: { readonly error: HeadraceError | undefined } | undefined
  #waiter: Waiter | undefined

  /** @param limit frames that may wait @param mostBytes that these may have together: small ones are many, large ones few */
  constructor(limit: number, flow: Flow, mostBytes = Number.POSITIVE_INFINITY) {
    this.#limit = limit
    this.#mostBytes = mostBytes
    this.#flow = flow
  }

  /** The source has been told to stop. */
  get paused(): boolean {
    return this.#paused
  }

  /** Never refuses: what the source had read when it was paused (64 or 256 KiB) is kept, though it is above the limit. */
  push(frame: Uint8Array): void {
    if (this.#ended !== undefined) return
    if (this.#waiter !== undefined) {
      this.#waiter.resolve(frame)
      return
    }
    this.#frames.push(frame)
    this.#bytes += frame.byteLength
    if (this.#paused || (this.#frames.length < this.#limit && this.#bytes < this.#mostBytes)) return
    this.#paused = true
    this.#flow.pause()
  }

  /** The contract of `Link.receive`. */
  async take(signal?: AbortSignal): Promise<Uint8Array | undefined> {
    if (this.#waiter !== undefined) throw new HeadraceError('internal', 'a receive is already pending on this link')
    if (signal?.aborted) throw abortError(signal)
    const frame = this.#frames.shift()
    if (frame !== undefined) {
      this.#bytes -= frame.byteLength
      this.#resumeWhenHalfEmpty()
      return frame
    }
    if (this.#ended === undefined) return this.#wait(signal)
    if (this.#ended.error !== undefined) throw this.#ended.error
    return undefined
  }

  /** No more frames will come; those that wait can still be taken. The first end counts. */
  end(error: HeadraceError | undefined): void {
    if (this.#ended !== undefined) return
    this.#ended = { error }
    if (error === undefined) this.#waiter?.resolve(undefined)
    else this.#waiter?.reject(error)
  }

  /** Forgets the frames that wait, and lets the source run on so that it can see its own end. */
  discard(): void {
    this.#frames = []
    this.#bytes = 0
    this.#resumeWhenHalfEmpty()
  }

  #resumeWhenHalfEmpty(): void {
    if (!this.#paused || this.#frames.length > this.#limit / 2 || this.#bytes > this.#mostBytes / 2) return
    this.#paused = false
    this.#flow.resume()
  }

  #wait(signal: AbortSignal | undefined): Promise<Uint8Array | undefined> {
    return new Promise<Uint8Array | undefined>((resolve, reject) => {
      const settled = () => {
        this.#waiter = undefined
        signal?.removeEventListener('abort', onAbort)
      }
      const onAbort = () => {
        settled()
        if (signal !== undefined) reject(abortError(signal))
      }
      signal?.addEventListener('abort', onAbort)
      this.#waiter = {
        resolve: (frame) => {
          settled()
          resolve(frame)
        },
        reject: (error) => {
          settled()
          reject(error)
        },
      }
    })
  }
}
