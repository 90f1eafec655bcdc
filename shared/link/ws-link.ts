import type { ClientRequestArgs, IncomingMessage } from 'node:http'
import type { Socket } from 'node:net'
import type { TLSSocket } from 'node:tls'
import { WebSocket } from 'ws'
import { abortError, ERRORS, HeadraceError, isErrorCode } from '../errors.ts'
import type { Certified } from '../security/identity.ts'
import type { Expected, Membership } from '../security/membership.ts'
import { refusalOf } from '../security/refusal.ts'
import { DirectSocket } from './direct-socket.ts'
import { FrameQueue } from './frame-queue.ts'
import { type Allocate, FrameReader } from './frame-reader.ts'
import type { Dialer, Link, LinkLimits } from './link.ts'
import { LinkWatchdog, PATIENCE, type Patience } from './link-watchdog.ts'

/** `Link` over `ws`, the same for both ends; `ws-server.ts` has the listening side. */

const HANDSHAKE_MS = 5_000

/** What a peer may cost beyond the payload itself; each default of `ws` is far above what Headrace sends. */
export function socketOptions(limits: LinkLimits) {
  return {
    maxPayload: receivedBytes(limits),
    maxFragments: 16,
    maxBufferedChunks: 8192,
    perMessageDeflate: false,
    /** Pings whose answers wait because the peer does not read them. */
    maxPendingAutoPongs: 60,
    /** After `close`: how long to wait for a peer that does not answer before the socket is destroyed. */
    closeTimeout: 5_000,
  }
}

const receivedBytes = ({ maxReceivedBytes, maxFrameBytes }: LinkLimits): number => maxReceivedBytes ?? maxFrameBytes

/** No peer of ours pings: more than this without a message between them is a flood. */
const MOST_PINGS = 64

export class WsLink implements Link {
  readonly peer: string
  readonly identity?: Certified
  readonly #socket: WebSocket
  readonly #maxFrameBytes: number
  readonly #received: FrameQueue
  readonly #closed = new AbortController()
  #frames = 0
  #pings = 0

  /** `socket` is open and has delivered nothing yet. `ws` itself has set TCP_NODELAY. */
  constructor(socket: WebSocket, peer: string, limits: LinkLimits, { direct, identity }: Origin = {}) {
    this.peer = peer
    if (identity !== undefined) this.identity = identity
    this.#socket = socket
    this.#maxFrameBytes = limits.maxFrameBytes
    this.#received = new FrameQueue(limits.maxQueuedFrames, socket, limits.maxQueuedBytes)
    // Each message in a buffer of its own: aligned, and free to be transferred to a thread.
    socket.binaryType = 'arraybuffer'
    socket.on('message', (data) => this.#take(data))
    socket.on('ping', () => this.#countPing())
    socket.on('error', (error) => this.#end(errorOfSocket(error, peer)))
    socket.on('close', (code, reason) => this.#end(errorOfClose(code, reason.toString(), peer)))
    if (direct !== undefined) this.#readFrom(direct, receivedBytes(limits))
  }

  /** Closes the link if its peer only keeps it busy (`link-watchdog.ts`). `wire` is what lies under the WebSocket. */
  watch(wire: { readonly bytesRead: number; readonly bytesWritten: number }, of: Patience): void {
    const now = (): number => performance.now() / 1000
    const watchdog = new LinkWatchdog(of, now())
    const timer = setInterval(() => {
      const unsent = this.#socket.bufferedAmount
      const { bytesRead, bytesWritten } = wire
      const counts = { frames: this.#frames, bytesRead, unsent, flushed: bytesWritten - unsent }
      const stalled = watchdog.look(now(), { ...counts, paused: this.#received.paused })
      if (stalled !== undefined) this.close(stalled)
    }, of.lookSeconds * 1000)
    timer.unref()
    this.closed.addEventListener('abort', () => clearInterval(timer), { once: true })
  }

  get closed(): AbortSignal {
    return this.#closed.signal
  }

  async send(frame: Uint8Array): Promise<void> {
    if (this.closed.aborted) throw this.#lost()
    if (frame.length > this.#maxFrameBytes) throw this.#refuseOwn(frame)
    await new Promise<void>((resolve, reject) => {
      this.#socket.send(frame, (error) => (error ? reject(this.#lost(error)) : resolve()))
    })
  }

  receive(signal?: AbortSignal): Promise<Uint8Array | undefined> {
    return this.#received.take(signal)
  }

  close(reason?: HeadraceError): void {
    if (this.closed.aborted) return
    this.#end(reason)
    this.#received.discard()
    if (reason === undefined) this.#socket.close(NORMAL)
    else this.#socket.close(closeCode(reason), reason.code)
  }

  #readFrom({ socket, allocate }: Direct, maxFrameBytes: number): void {
    const reader = new FrameReader({
      maxFrameBytes,
      allocate,
      onFrame: (frame) => this.#arrived(frame),
      pass: (bytes) => socket.pass(bytes),
    })
    socket.divert(reader)
  }

  #take(data: unknown): void {
    if (data instanceof ArrayBuffer) this.#arrived(new Uint8Array(data))
    else this.close(new HeadraceError('unexpected_message', `${this.peer} sent text`))
  }

  #arrived(frame: Uint8Array): void {
    this.#frames++
    this.#pings = 0
    this.#received.push(frame)
  }

  #countPing(): void {
    if (++this.#pings > MOST_PINGS)
      this.close(new HeadraceError('unexpected_message', `${this.peer} pings without end`))
  }

  #end(error: HeadraceError | undefined): void {
    this.#received.end(error)
    this.#closed.abort(error ?? new HeadraceError('link_closed', `the link to ${this.peer} is closed`))
  }

  #refuseOwn(frame: Uint8Array): HeadraceError {
    const what = `a frame of ${frame.length} bytes for ${this.peer}, more than ${this.#maxFrameBytes}`
    const error = new HeadraceError('frame_oversized', what)
    this.close(error)
    return error
  }

  #lost(cause: unknown = this.closed.reason): HeadraceError {
    return new HeadraceError('link_closed', `the link to ${this.peer} is closed`, { cause })
  }
}

interface Origin {
  readonly direct?: Direct | undefined
  readonly identity?: Certified | undefined
}

/** How a dialler receives what is for the link without the detour through `ws`. */
interface Direct {
  readonly socket: DirectSocket
  readonly allocate: Allocate
}

/** The memory of the frames that its links receive comes from `allocate`. With `secure`, links have TLS and no other. */
export const wsDialerWith = (allocate: Allocate, secure?: Membership): Dialer => ({
  dial: (url, limits, signal, expected = 'coordinator') => dial({ url, limits, expected, allocate, secure }, signal),
})

export const wsDialer = wsDialerWith((length) => new Uint8Array(length))

interface Dialled {
  readonly url: string
  readonly limits: LinkLimits
  readonly expected: Expected
  readonly allocate: Allocate
  readonly secure: Membership | undefined
}

async function dial(of: Dialled, signal: AbortSignal): Promise<Link> {
  const { url, limits, allocate, secure } = of
  if (signal.aborted) throw abortError(signal)
  if (url.startsWith('wss:') !== (secure !== undefined))
    throw new HeadraceError(
      'certificate_refused',
      `${url} ${secure ? 'has no TLS' : 'has TLS, but this end no identity'}`,
    )
  const deadline = AbortSignal.timeout(HANDSHAKE_MS)
  // What comes over TLS is not what a WebSocket server has sent.
  const direct = secure === undefined ? { socket: new DirectSocket(), allocate } : undefined
  try {
    const patience = { ...(limits.patience ?? PATIENCE), firstFrameSeconds: Number.POSITIVE_INFINITY }
    const linkOf = (open: WebSocket, wire: Socket): Link => {
      const identity = secure?.peerOf(wire as TLSSocket)
      const link = new WsLink(open, url, limits, { direct, identity })
      link.watch(wire, patience)
      if (identity !== undefined) secure?.guardDialled(link, identity)
      return link
    }
    return await opened(openSocket(of, direct), url, linkOf, [signal, deadline])
  } catch (thrown) {
    if (signal.aborted) throw abortError(signal)
    if (thrown instanceof HeadraceError) throw thrown
    const why = deadline.aborted ? `no answer within ${HANDSHAKE_MS / 1000} s` : String(thrown)
    throw refusalOf(thrown, url) ?? new HeadraceError('dial_failed', `cannot reach ${url}: ${why}`, { cause: thrown })
  }
}

function openSocket({ url, limits, expected, secure }: Dialled, direct: Direct | undefined): WebSocket {
  return new WebSocket(url, {
    ...socketOptions(limits),
    handshakeTimeout: HANDSHAKE_MS,
    ...secure?.clientOptions(expected),
    ...(direct && { createConnection: (at: ClientRequestArgs) => direct.socket.connect(at.host!, Number(at.port)) }),
    generateMask: () => {
      // Leaves the mask all zero. Masking is there against old proxies that mistake frames for HTTP requests, none of
      // which is between two workers, and it costs more than anything else on a link: 0.28 GB/s against 1.9 GB/s.
    },
  })
}

/** The link is made in the very turn in which the socket opens, because frames may follow in the next. */
function opened(
  socket: WebSocket,
  url: string,
  linkOf: (socket: WebSocket, wire: Socket) => Link,
  signals: readonly AbortSignal[],
): Promise<Link> {
  return new Promise<Link>((resolve, reject) => {
    const onAbort = () => socket.terminate()
    const release = () => {
      for (const signal of signals) signal.removeEventListener('abort', onAbort)
    }
    for (const signal of signals) signal.addEventListener('abort', onAbort)
    const fail = (error: unknown): void => {
      release()
      reject(error)
    }
    socket.on('error', fail)
    socket.on('unexpected-response', (_request, response) => {
      fail(errorOfAnswer(response, url))
      socket.terminate()
    })
    let wire: Socket | undefined
    socket.once('upgrade', (response) => {
      wire = response.socket
    })
    socket.on('open', () => {
      release()
      try {
        resolve(linkOf(socket, wire!))
      } catch (thrown) {
        reject(thrown)
        socket.terminate()
      }
    })
  })
}

/** A listener that refuses says why in a header, by code. */
export const REFUSAL_HEADER = 'headrace-refusal'

function errorOfAnswer({ statusCode, headers }: IncomingMessage, url: string): HeadraceError {
  const code = headers[REFUSAL_HEADER]
  if (typeof code === 'string' && isErrorCode(code))
    return new HeadraceError(code, `${url} refused: ${ERRORS[code].help}`)
  return new HeadraceError('dial_failed', `cannot reach ${url}: unexpected server response: ${statusCode}`)
}

/** RFC 6455: 1000 is a good end, 1009 a message too big, 1002 to 1008 a breach of the protocol, 4000 to 4999 are ours. */
const NORMAL = 1000
const TOO_BIG = 1009
const OURS = 4000

/** 4000 + HTTP status, with the error's code as the reason, so that both ends see the same. */
function closeCode(error: HeadraceError): number {
  return OURS + ERRORS[error.code].status
}

function errorOfClose(code: number, reason: string, peer: string): HeadraceError | undefined {
  if (code === NORMAL) return undefined
  if (code >= OURS && isErrorCode(reason)) return new HeadraceError(reason, `${peer} closed the link: ${reason}`)
  if (code === TOO_BIG) return new HeadraceError('frame_oversized', `${peer} refused a frame as too big`)
  if (code >= 1002 && code <= 1008 && code !== 1005 && code !== 1006)
    return new HeadraceError('unexpected_message', `${peer} closed the link for a breach of protocol (${code})`)
  return new HeadraceError('link_closed', `the link to ${peer} broke (${code})`)
}

function errorOfSocket(error: Error & { code?: string }, peer: string): HeadraceError {
  const code = error.code ?? ''
  const kind =
    code === 'WS_ERR_UNSUPPORTED_MESSAGE_LENGTH'
      ? 'frame_oversized'
      : code.startsWith('WS_ERR_')
        ? 'unexpected_message'
        : 'link_closed'
  return new HeadraceError(kind, `the link to ${peer} failed: ${error.message}`, { cause: error })
}
