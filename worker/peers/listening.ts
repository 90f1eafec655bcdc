import type { Clock } from '../../shared/clock.ts'
import { asHeadraceError, HeadraceError } from '../../shared/errors.ts'
import type { BufferPool } from '../../shared/link/buffer-pool.ts'
import { DATA_LIMITS, type Link } from '../../shared/link/link.ts'
import type { Log } from '../../shared/log.ts'
import { PROTOCOL_VERSION } from '../../shared/protocol/control.ts'
import { decodeMessage, encodeMessage } from '../../shared/protocol/messages.ts'
import {
  type PeerDelivery,
  type PeerRequest,
  peerDeliverySchema,
  peerRequestSchema,
} from '../../shared/protocol/peer.ts'
import type { TicketBook } from '../security/ticket-book.ts'
import { PeerBounds } from './peer-bounds.ts'

export type RunRequest = Exclude<PeerRequest, { kind: 'hello' | 'probe' }>

/** The part of a run that serves KV. Throws a coded error to a peer that has no business there. */
export interface RunServer {
  handle(request: RunRequest, from: string, link: Link, payload: Uint8Array): void
}

export interface PeerListeningOptions {
  readonly fingerprint: string
  readonly tickets: Pick<TicketBook, 'check'>
  readonly clock: Clock
  readonly log: Log
  /** For the frames that answer probes. */
  readonly buffers: BufferPool
  readonly onTicketRefused?: () => void
}

/** A request as it came over a link. */
interface Asked {
  readonly request: RunRequest
  readonly from: string
  readonly link: Link
  readonly payload: Uint8Array
}

type Parked = Asked & { readonly since: number }

/** A subscriber may be quicker than the assignment; its requests wait this long, and at most so many of them. */
const PARK_SECONDS = 30
const MAX_PARKED = 256
const MAX_PARKED_OF_LINK = 64
const MAX_PARKED_BYTES = 16 * 2 ** 20
/** Runs that ended here lately: a late subscriber is told at once instead of waiting. */
const MAX_ENDED = 256

/**
 * The sending end of KV: takes the links that other workers dial and hands their requests to the run they are about.
 */
export class PeerListening {
  readonly #of: PeerListeningOptions
  readonly #runs = new Map<string, RunServer>()
  /** Oldest first. */
  #parked: readonly Parked[] = []
  readonly #ended = new Set<string>()
  #noise = new Uint8Array(0)

  constructor(of: PeerListeningOptions) {
    this.#of = of
  }

  /** Runs that are served, and requests that wait for theirs. */
  get held(): { readonly runs: number; readonly parked: number } {
    return { runs: this.#runs.size, parked: this.#parked.length }
  }

  /** A run begins to serve here; requests that came before are handed to it now. */
  open(run: string, server: RunServer): void {
    this.#runs.set(run, server)
    for (const parked of this.#unpark(({ request }) => request.run === run)) this.#route(parked)
  }

  close(run: string): void {
    this.#runs.delete(run)
    this.#ended.add(run)
    for (const oldest of this.#ended) {
      if (this.#ended.size <= MAX_ENDED) break
      this.#ended.delete(oldest)
    }
  }

  /** Serves one link until it closes. Never rejects. */
  async serve(link: Link): Promise<void> {
    let from: string | undefined
    const subscribed = new Set<string>()
    const bounds = new PeerBounds()
    try {
      for (let frame = await link.receive(); frame; frame = await link.receive()) {
        const { message, payload } = decodeMessage(peerRequestSchema, frame, DATA_LIMITS.maxFrameBytes)
        if (message.kind === 'hello') {
          bounds.hello()
          from = this.#admit(message, link)
        } else if (from === undefined) throw new HeadraceError('unexpected_message', `${message.kind} before hello`)
        else if (message.kind === 'probe') {
          bounds.probe(message.bytes)
          await this.#answerProbe(link, message)
        } else this.#take({ request: message, from, link, payload }, subscribed)
      }
      link.close()
    } catch (thrown) {
      const error = asHeadraceError(thrown)
      this.#of.log.warn({ peer: link.peer, code: error.code }, error.message)
      link.close(error)
    }
    this.#unpark((parked) => parked.link === link)
  }

  /** Before the next request is looked at: whoever asks for much at once is held back by its own link. */
  async #answerProbe(link: Link, { seq, bytes }: { seq: number; bytes: number }): Promise<void> {
    const { buffers } = this.#of
    const payload = this.#runs.size > 0 ? new Uint8Array(0) : this.#noiseOf(bytes)
    const frame = encodeMessage(peerDeliverySchema, { kind: 'probed', seq }, payload, (length) => buffers.take(length))
    await link.send(frame)
    buffers.give(frame)
  }

  /** As hard to compress as KV, since a tunnel on the way may try. Kept: making it must not be what is measured. */
  #noiseOf(bytes: number): Uint8Array {
    if (this.#noise.length < bytes) this.#noise = noise(bytes)
    return this.#noise.subarray(0, bytes)
  }

  #admit(hello: { protocol: number; worker: string; fingerprint: string }, { identity }: Link): string {
    if (hello.protocol !== PROTOCOL_VERSION)
      throw new HeadraceError('protocol_mismatch', `${hello.worker} speaks version ${hello.protocol}`)
    if (hello.fingerprint !== this.#of.fingerprint)
      throw new HeadraceError('fingerprint_mismatch', `${hello.worker} has another model`)
    if (identity !== undefined && identity.name !== hello.worker)
      throw new HeadraceError('certificate_refused', `${identity.name} calls itself ${hello.worker}`)
    return hello.worker
  }

  /** A subscription needs a ticket; what is said of one later counts only on the link that has made it. */
  #take(asked: Asked, subscribed: Set<string>): void {
    const { request, from, link } = asked
    const { run } = request
    try {
      if (request.kind === 'subscribe') {
        this.#of.tickets.check(request.ticket, { run, purpose: request.purpose, target: from })
        subscribed.add(run)
      } else if (!subscribed.has(run)) return
      if (request.kind === 'unsubscribe') subscribed.delete(run)
    } catch (thrown) {
      const error = asHeadraceError(thrown)
      if (error.code === 'ticket_refused') this.#of.onTicketRefused?.()
      this.#of.log.warn({ peer: from, run, code: error.code }, error.message)
      this.#answerEnded(link, request.run, error)
      return
    }
    this.#route(asked)
  }

  #route(asked: Asked): void {
    const { request, from, link, payload } = asked
    const server = this.#runs.get(request.run)
    if (server === undefined) {
      this.#park(asked)
      return
    }
    try {
      server.handle(request, from, link, payload)
    } catch (thrown) {
      this.#answerEnded(link, request.run, asHeadraceError(thrown))
    }
  }

  #park(asked: Asked): void {
    const { request, link } = asked
    if (request.kind !== 'subscribe') return // credit for, or the end of, a run that is over here
    const { clock } = this.#of
    if (this.#ended.has(request.run)) {
      this.#answerEnded(link, request.run, new HeadraceError('worker_failed', 'the run is over here'))
      return
    }
    this.#parked = [...this.#parked, { ...asked, since: clock.now() }]
    for (const dropped of this.#unpark(this.#mustGo(link)))
      this.#answerEnded(
        dropped.link,
        dropped.request.run,
        new HeadraceError('worker_failed', 'the run never came here'),
      )
  }

  /** Of what is parked, asked of each in turn: what is too old, and the oldest where there is too much. */
  #mustGo(link: Link): (parked: Parked) => boolean {
    const late = this.#of.clock.now() - PARK_SECONDS
    let left = this.#parked.length
    let ofLink = this.#parked.filter((parked) => parked.link === link).length
    let bytes = this.#parked.reduce((sum, { payload }) => sum + payload.byteLength, 0)
    return (parked) => {
      const own = parked.link === link
      const crowded = left > MAX_PARKED || bytes > MAX_PARKED_BYTES || (own && ofLink > MAX_PARKED_OF_LINK)
      if (parked.since >= late && !crowded) return false
      left--
      bytes -= parked.payload.byteLength
      if (own) ofLink--
      return true
    }
  }

  #unpark(which: (parked: Parked) => boolean): Parked[] {
    const leaving = new Set(this.#parked.filter(which))
    this.#parked = this.#parked.filter((parked) => !leaving.has(parked))
    return [...leaving]
  }

  #answerEnded(link: Link, run: string, error: HeadraceError): void {
    const answer: PeerDelivery = { kind: 'ended', run, code: error.code, message: error.message.slice(0, 2048) }
    link
      .send(encodeMessage(peerDeliverySchema, answer))
      .catch((cause: unknown) => this.#of.log.debug({ err: cause }, 'the subscriber has left'))
  }
}

/** Marsaglia's xorshift (2003). */
function noise(bytes: number): Uint8Array<ArrayBuffer> {
  const words = new Uint32Array(Math.ceil(bytes / 4))
  let word = 0x9e3779b9
  for (let i = 0; i < words.length; i++) {
    word ^= word << 13
    word ^= word >>> 17
    word ^= word << 5
    words[i] = word
  }
  return new Uint8Array(words.buffer, 0, bytes)
}
