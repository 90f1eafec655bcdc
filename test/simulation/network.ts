import { abortError, HeadraceError } from '../../shared/errors.ts'
import { FrameQueue } from '../../shared/link/frame-queue.ts'
import type { Dialer, Link, LinkLimits } from '../../shared/link/link.ts'
import { decodeFrame } from '../../shared/protocol/frame.ts'
import type { Chance } from './chance.ts'
import type { History } from './history.ts'
import type { SimProcess, Timeline } from './timeline.ts'

/**
 * A network as TCP shows it: bytes of a connection come in order or not at all, and the only loss is that of the whole
 * connection. Everything else may happen: delay, little bandwidth, full buffers, one direction that stands still, a cut in
 * the middle of a frame, a refused connection; and, where no checksum of TCP helps, a flipped bit.
 */

/** How long a dialler waits for the answer of a host that does not even refuse. */
const HANDSHAKE_SECONDS = 5
/** A closed connection whose last bytes nobody takes is given up after this long. */
const LINGER_SECONDS = 5

/** One direction between two hosts. */
export interface Path {
  delay: number
  bytesPerSecond: number
  /** Nothing arrives before this moment. */
  stalledUntil: number
  /** Connections cannot be made before this moment. */
  refusedUntil: number
  /** So many of the next frames with KV get one bit flipped. */
  flips: number
  /** So many of the next frames with KV get one bit of their header flipped. */
  headerFlips: number
  /** So many of the next frames with KV arrive twice. */
  repeats: number
}

export interface NetworkOptions {
  readonly timeline: Timeline
  readonly history: History
  /** Draws how a path is. */
  readonly path: () => { delay: number; bytesPerSecond: number }
  /** Where a bit flips. */
  readonly chance: Chance
  /** Bytes that a sender may have on the way. */
  readonly sendBuffer: number
  /** Delays of one path vary by so much, in parts. */
  readonly jitter: number
}

interface Listener {
  readonly process: SimProcess
  readonly limits: LinkLimits
  readonly onLink: (link: Link) => void
}

export class SimNetwork {
  readonly of: NetworkOptions
  readonly #paths = new Map<string, Path>()
  /** Who came last at an address answers there. */
  readonly #listeners = new Map<string, Listener[]>()
  readonly #pairs = new Set<readonly [SimLink, SimLink]>()

  constructor(of: NetworkOptions) {
    this.of = of
  }

  path(from: string, to: string): Path {
    const key = `${from}>${to}`
    const known = this.#paths.get(key)
    if (known !== undefined) return known
    const path = { ...this.of.path(), stalledUntil: 0, refusedUntil: 0, flips: 0, headerFlips: 0, repeats: 0 }
    this.#paths.set(key, path)
    return path
  }

  /** Until the process ends. */
  listen(url: string, process: SimProcess, limits: LinkLimits, onLink: (link: Link) => void): void {
    const listeners = this.#listeners.get(url) ?? []
    const listener = { process, limits, onLink }
    this.#listeners.set(url, listeners)
    listeners.push(listener)
    process.onEnd(() => listeners.splice(listeners.indexOf(listener), 1))
  }

  /** What dials for a process; received frames come in memory from `allocate`. */
  dialer(process: SimProcess, allocate: (length: number) => Uint8Array): Dialer {
    return { dial: (url, limits, signal) => this.#dial(process, allocate, url, limits, signal) }
  }

  /** Breaks every connection between two hosts; returns how many there were. */
  cut(a: string, b: string, inMidFrame: boolean): number {
    let cut = 0
    for (const pair of [...this.#pairs]) {
      const hosts = [pair[0].process.host, pair[1].process.host]
      if (!hosts.includes(a) || !hosts.includes(b)) continue
      cut++
      for (const end of pair) end.breakOff(inMidFrame)
    }
    return cut
  }

  /** Paths have changed: whatever may arrive now does. */
  wake(): void {
    for (const pair of [...this.#pairs]) for (const end of pair) end.pump()
  }

  forget(pair: readonly [SimLink, SimLink]): void {
    this.#pairs.delete(pair)
  }

  #dial(
    process: SimProcess,
    allocate: (length: number) => Uint8Array,
    url: string,
    limits: LinkLimits,
    signal: AbortSignal,
  ): Promise<Link> {
    if (signal.aborted) return Promise.reject(abortError(signal))
    const { timeline } = this.of
    return new Promise<Link>((resolve, reject) => {
      let over = false
      const settle = (work: () => void): void => {
        if (over) return
        over = true
        late()
        signal.removeEventListener('abort', onAbort)
        work()
      }
      const onAbort = (): void => settle(() => reject(abortError(signal)))
      const fail = (why: string): void =>
        settle(() => reject(new HeadraceError('dial_failed', `cannot reach ${url}: ${why}`)))
      const late = process.after(HANDSHAKE_SECONDS, () => fail('no answer'))
      signal.addEventListener('abort', onAbort, { once: true })
      const host = hostOf(url)
      const [there, back] = [this.path(process.host, host), this.path(host, process.host)]
      const open = (): void => {
        const listener = this.#listeners.get(url)?.at(-1)
        const refused = listener === undefined || timeline.now < there.refusedUntil
        if (!refused && (listener.process.frozen || over)) return // its kernel would answer, it does not
        const answerIn = Math.max(back.delay, back.stalledUntil - timeline.now)
        if (refused) {
          timeline.after(answerIn, () => process.after(0, () => fail('refused')))
          return
        }
        const near = new SimLink(this, process, url, limits, allocate)
        const plain = (length: number): Uint8Array => new Uint8Array(length)
        const far = new SimLink(this, listener.process, `${process.host}:${url}`, listener.limits, plain)
        near.other = far
        far.other = near
        const pair = [near, far] as const
        this.#pairs.add(pair)
        near.pair = pair
        far.pair = pair
        far.opened(answerIn)
        listener.onLink(far)
        timeline.after(answerIn, () => {
          if (over || !process.alive) near.breakOff(true)
          else process.after(0, () => settle(() => resolve(near)))
        })
      }
      timeline.after(Math.max(there.delay, there.stalledUntil - timeline.now), open)
    })
  }
}

/** A frame under way, or the end of the connection behind the last one. */
type Parcel = { readonly readyAt: number } & (
  | { readonly frame: Uint8Array }
  | { readonly end: HeadraceError | undefined }
)

class SimLink implements Link {
  readonly peer: string
  readonly process: SimProcess
  other!: SimLink
  pair!: readonly [SimLink, SimLink]
  readonly #network: SimNetwork
  readonly #limits: LinkLimits
  readonly #allocate: (length: number) => Uint8Array
  readonly #received: FrameQueue
  readonly #closed = new AbortController()
  #paused = false
  /** Not yet in the send buffer. */
  readonly #waiting: { frame: Uint8Array; accept: () => void; refuse: (error: HeadraceError) => void }[] = []
  /** In the send buffer, on the wire or in the receiver's kernel. */
  #wire: Parcel[] = []
  #buffered = 0
  #wireFree = 0
  #lastArrival = 0
  #pumpAt = Number.POSITIVE_INFINITY
  #dead = false

  constructor(
    network: SimNetwork,
    process: SimProcess,
    peer: string,
    limits: LinkLimits,
    allocate: (length: number) => Uint8Array,
  ) {
    this.#network = network
    this.process = process
    this.peer = peer
    this.#limits = limits
    this.#allocate = allocate
    this.#received = new FrameQueue(limits.maxQueuedFrames, {
      pause: () => {
        this.#paused = true
        network.of.history.saw('receiver held its sender back')
      },
      resume: () => {
        this.#paused = false
        this.other.pump()
      },
    })
    process.onEnd(() => this.breakOff(false))
    process.onThaw(() => this.other.pump())
  }

  /** Nothing of this end arrives before the other has heard that the connection stands. */
  opened(seconds: number): void {
    this.#lastArrival = this.#network.of.timeline.now + seconds
  }

  get closed(): AbortSignal {
    return this.#closed.signal
  }

  async send(frame: Uint8Array): Promise<void> {
    if (this.closed.aborted) throw this.#lost()
    if (frame.length > this.#limits.maxFrameBytes) {
      const error = new HeadraceError('frame_oversized', `a frame of ${frame.length} bytes`)
      this.close(error)
      throw error
    }
    await new Promise<void>((accept, refuse) => {
      this.#waiting.push({ frame, accept, refuse })
      this.#fill(false)
    })
  }

  receive(signal?: AbortSignal): Promise<Uint8Array | undefined> {
    return this.#received.take(signal)
  }

  close(reason?: HeadraceError): void {
    if (this.closed.aborted) return
    this.#end(reason)
    this.#received.discard()
    this.#fill(true)
    const told =
      reason === undefined ? undefined : new HeadraceError(reason.code, `${this.process.host} closed: ${reason.code}`)
    this.#put({ readyAt: this.#arrival(0), end: told })
    this.#network.of.timeline.after(LINGER_SECONDS, () => this.breakOff(false))
  }

  /** The connection is no more: what was under way is lost, and each end hears of it as soon as the network tells it. */
  breakOff(inMidFrame: boolean): void {
    if (this.#dead) return
    this.#dead = true
    this.other.#dead = true
    this.#network.forget(this.pair)
    const { history } = this.#network.of
    if (inMidFrame && this.#wire.length > 0) history.saw('frame cut in its middle')
    for (const end of this.pair) {
      end.#wire = []
      const { from, to } = end.#hosts()
      const path = this.#network.path(to, from)
      const broke = new HeadraceError('link_closed', `the link to ${end.peer} broke`)
      const tell = (): void => {
        for (const { refuse } of end.#waiting.splice(0)) refuse(end.#lost())
        end.#end(broke)
      }
      const { timeline } = this.#network.of
      const wait = Math.max(path.delay, path.stalledUntil - timeline.now)
      timeline.after(wait, () => end.process.after(0, tell))
    }
  }

  /** Hands over what has arrived, as far as the receiver takes it. */
  pump(): void {
    if (this.#dead) return
    const { timeline } = this.#network.of
    const to = this.other
    const path = this.#path()
    while (this.#wire[0] !== undefined) {
      const readyAt = Math.max(this.#wire[0].readyAt, path.stalledUntil)
      if (readyAt > timeline.now) {
        this.#pumpLater(readyAt)
        break
      }
      if (!to.process.alive || to.process.frozen || (to.#paused && 'frame' in this.#wire[0])) break
      this.#handOver(this.#wire.shift()!)
      if (this.#dead) return
    }
    this.#fill(false)
  }

  #handOver(parcel: Parcel): void {
    const to = this.other
    const { history } = this.#network.of
    const { from, to: host } = this.#hosts()
    if ('end' in parcel) {
      history.note('closed', from, host, parcel.end?.code ?? '')
      to.#end(parcel.end)
      this.#dead = true
      to.#dead = true
      for (const { refuse } of to.#waiting.splice(0)) refuse(to.#lost())
      this.#network.forget(this.pair)
      return
    }
    this.#buffered -= parcel.frame.length
    history.note('frame', from, host, parcel.frame.length)
    if (to.closed.aborted) return
    history.explain('  it says', () => [words(parcel.frame)])
    const memory = to.#allocate(parcel.frame.length)
    memory.set(parcel.frame)
    const repeats = this.#damage(memory)
    to.#received.push(memory)
    if (repeats) to.#received.push(parcel.frame.slice())
  }

  /** Flips a bit of a KV block, if one is due. Returns whether the frame comes a second time. */
  #damage(frame: Uint8Array): boolean {
    const path = this.#path()
    if (path.flips + path.headerFlips + path.repeats === 0) return false
    const { header, payload } = decodeFrame(frame, Number.POSITIVE_INFINITY)
    if ((header as { kind: string }).kind !== 'kv') return false
    const { chance, history } = this.#network.of
    const { from, to } = this.#hosts()
    if (path.flips > 0) {
      path.flips--
      const at = chance.whole(0, payload.length - 1)
      payload[at]! ^= 1 << chance.whole(0, 7)
      history.note('flipped', from, to, at)
      history.saw('a bit of a block was flipped')
      return false
    }
    if (path.headerFlips > 0) {
      path.headerFlips--
      const at = chance.whole(20, 20 + new DataView(frame.buffer, frame.byteOffset).getUint32(8, true) - 1)
      frame[at]! ^= 1 << chance.whole(0, 7)
      history.note('flipped', from, to, 'header', at)
      history.saw('a bit of a header was flipped')
      return false
    }
    path.repeats--
    history.note('repeated', from, to)
    history.saw('a block came twice')
    return true
  }

  /** Takes what waits into the send buffer; all of it if `force`. */
  #fill(force: boolean): void {
    const { sendBuffer, history } = this.#network.of
    while (this.#waiting.length > 0 && !this.#dead) {
      const { frame, accept } = this.#waiting[0]!
      if (!force && this.#buffered > 0 && this.#buffered + frame.length > sendBuffer) {
        history.saw('sender had to wait')
        return
      }
      this.#waiting.shift()
      this.#buffered += frame.length
      this.#put({ readyAt: this.#arrival(frame.length), frame: frame.slice() })
      accept()
    }
  }

  #arrival(bytes: number): number {
    const { timeline, chance, jitter } = this.#network.of
    const { delay, bytesPerSecond } = this.#path()
    this.#wireFree = Math.max(this.#wireFree, timeline.now) + bytes / bytesPerSecond
    const wait = jitter > 0 ? delay * (1 + jitter * chance.next()) : delay
    this.#lastArrival = Math.max(this.#lastArrival, this.#wireFree + wait)
    return this.#lastArrival
  }

  #put(parcel: Parcel): void {
    this.#wire.push(parcel)
    this.#pumpLater(parcel.readyAt)
  }

  #pumpLater(at: number): void {
    const { timeline } = this.#network.of
    if (this.#pumpAt <= at && this.#pumpAt > timeline.now) return
    this.#pumpAt = at
    timeline.after(at - timeline.now, () => {
      if (this.#pumpAt <= timeline.now) this.#pumpAt = Number.POSITIVE_INFINITY
      this.pump()
    })
  }

  #hosts(): { from: string; to: string } {
    return { from: this.process.host, to: this.other.process.host }
  }

  #path(): Path {
    return this.#network.path(this.process.host, this.other.process.host)
  }

  #end(error: HeadraceError | undefined): void {
    this.#received.end(error)
    this.#closed.abort(error ?? this.#lost())
  }

  #lost(): HeadraceError {
    return new HeadraceError('link_closed', `the link to ${this.peer} is closed`)
  }
}

/** `sim://host` or `sim://host/path`. */
const hostOf = (url: string): string => url.split('/')[2] ?? ''

function words(frame: Uint8Array): string {
  const { header } = decodeFrame(frame, Number.POSITIVE_INFINITY)
  const dull = new Set(['fingerprint', 'crc32', 'dtype', 'prefixWire', 'handoffWire', 'report', 'sampling', 'url'])
  return JSON.stringify(header, (key, value) => (dull.has(key) ? undefined : value))
}
