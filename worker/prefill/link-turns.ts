import type { Link } from '../../shared/link/link.ts'

/** One run's frames for one link. */
export interface Sender {
  /** Takes the frame out that is to go next, if one may go now. */
  next(): { readonly frame: Uint8Array } | undefined
  /** The frame taken last has been handed over. */
  sent(): void
  /** It could not be. */
  failed(error: unknown): void
}

/**
 * Who may send on a link that several runs share. A frame goes at a time, always of the earliest run that has one ready,
 * in the order in which the subscriber asked for them: a later run fills the earlier one's pauses and delays it by one
 * frame at most.
 */
export class LinkTurns {
  static readonly #ofLink = new WeakMap<Link, LinkTurns>()
  readonly #link: Link
  /** In the order of joining. */
  readonly #senders = new Set<Sender>()
  #sending = false

  private constructor(link: Link) {
    this.#link = link
  }

  static of(link: Link): LinkTurns {
    const known = LinkTurns.#ofLink.get(link)
    if (known !== undefined) return known
    const turns = new LinkTurns(link)
    LinkTurns.#ofLink.set(link, turns)
    return turns
  }

  join(sender: Sender): void {
    this.#senders.add(sender)
  }

  leave(sender: Sender): void {
    this.#senders.delete(sender)
  }

  /** Somebody may have become ready. */
  wake(): void {
    if (!this.#sending) this.#send()
  }

  #send(): void {
    for (const sender of this.#senders) {
      const next = sender.next()
      if (next === undefined) continue
      this.#sending = true
      this.#link.send(next.frame).then(
        () => this.#end(() => sender.sent()),
        (error: unknown) => this.#end(() => sender.failed(error)),
      )
      return
    }
  }

  /** What `tell` makes ready finds the link taken, so that the next frame is chosen among all. */
  #end(tell: () => void): void {
    tell()
    this.#sending = false
    this.#send()
  }
}
