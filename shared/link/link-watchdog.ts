import { HeadraceError } from '../errors.ts'

/** How long a peer may keep a link busy with nothing. */
export interface Patience {
  /** From the opening to the first whole frame of whoever dialled. */
  readonly firstFrameSeconds: number
  /** For the next bytes of a frame that has begun, and for a peer to take what waits for it. */
  readonly stallSeconds: number
  /** Between two looks. */
  readonly lookSeconds: number
}

export const PATIENCE: Patience = { firstFrameSeconds: 5, stallSeconds: 10, lookSeconds: 1 }

/** What can be seen of a link: counts since it opened, and what is so now. */
export interface LinkSight {
  /** Whole frames that came. */
  readonly frames: number
  readonly bytesRead: number
  /** Bytes that the operating system has not taken yet. */
  readonly unsent: number
  readonly flushed: number
  /** Nothing is read, because frames wait here to be taken. */
  readonly paused: boolean
}

/** In so long as a peer may stall, a frame gets on by this at least. */
const LEAST_PROGRESS = 2 ** 14
/** Less may wait for ever: it costs nothing, and a peer that has nothing to read is not slow. */
const MOST_UNSENT = 2 ** 20

/** Finds peers that hold a link open with bytes that trickle, or do not take what they asked for. Pure. */
export class LinkWatchdog {
  readonly #patience: Patience
  #opened: number
  #looked: number
  #frames = 0
  /** A frame has begun and is not whole. */
  #partial = false
  #progress: Mark
  #drained: Mark

  constructor(patience: Patience, now: number) {
    this.#patience = patience
    this.#opened = now
    this.#looked = now
    this.#progress = { at: now, bytes: 0 }
    this.#drained = { at: now, bytes: 0 }
  }

  /** Why the link is to be closed (`link_stalled`), if it is. */
  look(now: number, sight: LinkSight): HeadraceError | undefined {
    // After a stall of this process what came meanwhile has not been read yet.
    if (now - this.#looked > 3 * this.#patience.lookSeconds + 1) this.#forgive(now)
    this.#looked = now
    const { firstFrameSeconds, stallSeconds } = this.#patience
    if (sight.frames === 0 && now - this.#opened > firstFrameSeconds)
      return stalled(`it sent nothing whole within ${firstFrameSeconds} s`)
    if (this.#trickles(now, sight)) return stalled(`a frame made no progress for ${stallSeconds} s`)
    if (this.#backsUp(now, sight)) return stalled(`it took none of ${sight.unsent} bytes for ${stallSeconds} s`)
    return undefined
  }

  #trickles(now: number, { frames, bytesRead, paused }: LinkSight): boolean {
    const came = bytesRead - this.#progress.bytes
    if (frames !== this.#frames || paused) this.#partial = false
    else if (came > 0) this.#partial = true
    if (!this.#partial || came >= LEAST_PROGRESS) this.#progress = { at: now, bytes: bytesRead }
    this.#frames = frames
    return now - this.#progress.at > this.#patience.stallSeconds
  }

  #backsUp(now: number, { unsent, flushed }: LinkSight): boolean {
    if (unsent <= MOST_UNSENT || flushed > this.#drained.bytes) this.#drained = { at: now, bytes: flushed }
    return now - this.#drained.at > this.#patience.stallSeconds
  }

  #forgive(now: number): void {
    this.#opened += now - this.#looked
    this.#progress = { ...this.#progress, at: now }
    this.#drained = { ...this.#drained, at: now }
  }
}

interface Mark {
  readonly at: number
  readonly bytes: number
}

const stalled = (why: string): HeadraceError =>
  new HeadraceError('link_stalled', `the peer keeps the link busy: ${why}`)
