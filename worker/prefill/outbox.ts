import type { Clock } from '../../shared/clock.ts'
import { asHeadraceError, type HeadraceError } from '../../shared/errors.ts'
import type { Link } from '../../shared/link/link.ts'

/**
 * Frames of one run on their way to one subscriber: lowest layer first, within a layer lowest position first (so a
 * chain's prefix goes before own blocks), and only layers below the window that the subscriber has granted.
 *
 * Frames may come before the subscriber does. At most `expected` frames ever pass, so that is the bound of the queue.
 */
export class Outbox {
  readonly #expected: number
  readonly #clock: Clock
  readonly #onSent: (frame: OutboundFrame, started: number) => void
  readonly #onError: (error: HeadraceError) => void
  readonly #queue: OutboundFrame[] = []
  #link: Link | undefined
  #window = 0
  #pumping = false
  #sent = 0
  sentBytes = 0
  sendSeconds = 0

  constructor(of: {
    expected: number
    clock: Clock
    /** `started`: when the frame began to be handed over. */
    onSent: (frame: OutboundFrame, started: number) => void
    onError: (error: HeadraceError) => void
  }) {
    this.#expected = of.expected
    this.#clock = of.clock
    this.#onSent = of.onSent
    this.#onError = of.onError
  }

  /** Every frame that will ever be pushed has been handed over. */
  get drained(): boolean {
    return this.#sent === this.#expected
  }

  push(frame: OutboundFrame): void {
    const after = this.#queue.findIndex(
      (f) => f.layer > frame.layer || (f.layer === frame.layer && f.start > frame.start),
    )
    this.#queue.splice(after < 0 ? this.#queue.length : after, 0, frame)
    this.#pump()
  }

  attach(link: Link, window: number): void {
    this.#link = link
    this.grant(window)
  }

  /** Windows only grow; an older grant that arrives late changes nothing. */
  grant(window: number): void {
    this.#window = Math.max(this.#window, window)
    this.#pump()
  }

  /** Drops what has not been sent. */
  clear(): void {
    this.#queue.length = 0
    this.#link = undefined
  }

  #pump(): void {
    if (this.#pumping) return
    this.#pumping = true
    this.#sendAll().catch((error: unknown) => this.#onError(asHeadraceError(error, 'link_closed')))
  }

  async #sendAll(): Promise<void> {
    for (;;) {
      const head = this.#queue[0]
      const link = this.#link
      if (head === undefined || link === undefined || head.layer >= this.#window) {
        // In the same turn as the look at the queue: a push must find either a running pump or none.
        this.#pumping = false
        return
      }
      this.#queue.shift()
      const started = this.#clock.now()
      await link.send(head.frame)
      this.sendSeconds += this.#clock.now() - started
      this.sentBytes += head.frame.byteLength
      this.#sent++
      this.#onSent(head, started)
    }
  }
}

export interface OutboundFrame {
  readonly layer: number
  readonly start: number
  /** Made by another worker and passed on here. */
  readonly relayed: boolean
  readonly frame: Uint8Array
}
