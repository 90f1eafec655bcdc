import { abortError, HeadraceError } from '../../shared/errors.ts'
import { FrameQueue } from '../../shared/link/frame-queue.ts'
import type { Dialer, Link, LinkLimits } from '../../shared/link/link.ts'

/** Links in memory that honour the contract of `Link`, for tests and simulations: no sockets, no timers. */

const LIMITS: LinkLimits = { maxFrameBytes: 2 ** 20, maxQueuedFrames: 16 }

class MemoryLink implements Link {
  readonly peer: string
  readonly #limits: LinkLimits
  readonly #received: FrameQueue
  readonly #closed = new AbortController()
  /** Sends leave one after the other, each when the peer has room. */
  #lastSend: Promise<void> = Promise.resolve()
  #room: Promise<void> = Promise.resolve()
  #openRoom: (() => void) | undefined
  #other: MemoryLink = this

  constructor(peer: string, limits: LinkLimits) {
    this.peer = peer
    this.#limits = limits
    this.#received = new FrameQueue(limits.maxQueuedFrames, {
      pause: () => this.#other.#block(),
      resume: () => this.#other.#unblock(),
    })
  }

  static pair(names: readonly [string, string], limits: LinkLimits, otherLimits: LinkLimits): [MemoryLink, MemoryLink] {
    const a = new MemoryLink(names[1], limits)
    const b = new MemoryLink(names[0], otherLimits)
    a.#other = b
    b.#other = a
    return [a, b]
  }

  get closed(): AbortSignal {
    return this.#closed.signal
  }

  async send(frame: Uint8Array): Promise<void> {
    if (this.closed.aborted) throw this.#lost()
    if (frame.length > this.#limits.maxFrameBytes) {
      const error = oversized(frame)
      this.close(error)
      throw error
    }
    const sent = this.#lastSend.then(() => this.#deliver(frame))
    // Whoever sent it hears of a failure; the next send only waits for its turn.
    this.#lastSend = sent.catch(() => undefined)
    await sent
  }

  receive(signal?: AbortSignal): Promise<Uint8Array | undefined> {
    return this.#received.take(signal)
  }

  close(reason?: HeadraceError): void {
    if (this.closed.aborted) return
    this.#end(reason)
    this.#received.discard()
    void this.#lastSend.then(() => this.#other.#end(reason))
    this.#unblock()
  }

  async #deliver(frame: Uint8Array): Promise<void> {
    await this.#room
    if (this.#other.closed.aborted) throw this.#lost()
    if (frame.length > this.#other.#limits.maxFrameBytes) {
      this.#other.#end(oversized(frame))
      this.#end(oversized(frame))
      throw this.#lost()
    }
    this.#other.#received.push(new Uint8Array(frame))
  }

  #block(): void {
    this.#room = new Promise((resolve) => {
      this.#openRoom = resolve
    })
  }

  #unblock(): void {
    this.#openRoom?.()
  }

  #end(error: HeadraceError | undefined): void {
    this.#received.end(error)
    this.#closed.abort(error ?? this.#lost())
    this.#unblock()
  }

  #lost(): HeadraceError {
    return new HeadraceError('link_closed', `the link to ${this.peer} is closed`)
  }
}

function oversized(frame: Uint8Array): HeadraceError {
  return new HeadraceError('frame_oversized', `a frame of ${frame.length} bytes`)
}

/** Two ends of one link. Each may have limits of its own. */
export function memoryLinkPair(limits: LinkLimits = LIMITS, otherLimits: LinkLimits = limits): [Link, Link] {
  return MemoryLink.pair(['a', 'b'], limits, otherLimits)
}

/** A network of names: who has registered a URL is handed its end of every link dialled to it. */
export class MemoryNetwork implements Dialer {
  readonly #listeners = new Map<string, { limits: LinkLimits; onLink: (link: Link) => void }>()

  /** Returns what ends the listening; links that exist live on. */
  register(url: string, limits: LinkLimits, onLink: (link: Link) => void): () => void {
    this.#listeners.set(url, { limits, onLink })
    return () => {
      this.#listeners.delete(url)
    }
  }

  async dial(url: string, limits: LinkLimits, signal: AbortSignal): Promise<Link> {
    if (signal.aborted) throw abortError(signal)
    const listener = this.#listeners.get(url)
    if (listener === undefined) throw new HeadraceError('dial_failed', `nobody listens at ${url}`)
    const [near, far] = MemoryLink.pair(['dialler', url], limits, listener.limits)
    listener.onLink(far)
    return near
  }
}
