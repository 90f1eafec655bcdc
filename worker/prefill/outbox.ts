import type { Clock } from '../../shared/clock.ts'
import { asHeadraceError, type HeadraceError } from '../../shared/errors.ts'
import type { Link } from '../../shared/link/link.ts'
import { LinkTurns, type Sender } from './link-turns.ts'

/**
 * Frames of one run on their way to one subscriber: lowest layer first, within a layer lowest position first (so a
 * chain's prefix goes before own blocks), and only layers below the window that the subscriber has granted.
 *
 * Frames may come before the subscriber does. At most `expected` frames ever pass, so that is the bound of the queue.
 */
export class Outbox implements Sender {
  readonly #of: OutboxOptions
  readonly #queue: OutboundFrame[] = []
  #turns: LinkTurns | undefined
  #window = 0
  #sending: { frame: OutboundFrame; started: number } | undefined
  #sent = 0
  sentBytes = 0
  sendSeconds = 0

  constructor(of: OutboxOptions) {
    this.#of = of
  }

  /** Every frame that will ever be pushed has been handed over. */
  get drained(): boolean {
    return this.#sent === this.#of.expected
  }

  push(frame: OutboundFrame): void {
    const after = this.#queue.findIndex(
      (f) => f.layer > frame.layer || (f.layer === frame.layer && f.start > frame.start),
    )
    this.#queue.splice(after < 0 ? this.#queue.length : after, 0, frame)
    this.wake()
  }

  /** A subscriber that asks again, on another link it may be, gets there what has not been sent. */
  attach(link: Link, window: number): void {
    this.#turns?.leave(this)
    this.#turns = LinkTurns.of(link)
    this.#turns.join(this)
    this.grant(window)
  }

  /** Windows only grow; an older grant that arrives late changes nothing. */
  grant(window: number): void {
    this.#window = Math.max(this.#window, window)
    this.wake()
  }

  /** A frame may have become ready. */
  wake(): void {
    this.#turns?.wake()
  }

  /** Drops what has not been sent. */
  clear(): void {
    this.#queue.length = 0
    this.#turns?.leave(this)
    this.#turns = undefined
  }

  /** The layer of the frame that waits for nothing but the link. */
  get readyLayer(): number | undefined {
    const head = this.#queue[0]
    return head !== undefined && this.#turns !== undefined && head.layer < this.#window ? head.layer : undefined
  }

  next(): OutboundFrame | undefined {
    if (this.#sending !== undefined) return undefined // on the link that was there before this one
    const layer = this.readyLayer
    const urgent = this.#of.after?.readyLayer
    if (layer === undefined || (urgent !== undefined && urgent <= layer)) return undefined
    const frame = this.#queue.shift()!
    this.#sending = { frame, started: this.#of.clock.now() }
    this.#of.onTaken?.()
    return frame
  }

  sent(): void {
    const { frame, started } = this.#sending!
    this.#sending = undefined
    this.sendSeconds += this.#of.clock.now() - started
    this.sentBytes += frame.frame.byteLength
    this.#sent++
    frame.done?.()
    this.#of.onSent(frame, started)
    this.wake()
  }

  failed(error: unknown): void {
    this.#of.onError(asHeadraceError(error, 'link_closed'))
    this.clear()
  }
}

export interface OutboxOptions {
  readonly expected: number
  readonly clock: Clock
  /** Frames of this one that are ready go before frames of the same or a higher layer here, though on another link. */
  readonly after?: Outbox | undefined
  /** A frame has left the queue. */
  readonly onTaken?: () => void
  /** `started`: when the frame began to be handed over. */
  readonly onSent: (frame: OutboundFrame, started: number) => void
  readonly onError: (error: HeadraceError) => void
}

export interface OutboundFrame {
  readonly layer: number
  readonly start: number
  readonly frame: Uint8Array
  /** It has been handed over, and nothing here refers to it any more. */
  readonly done?: () => void
}
