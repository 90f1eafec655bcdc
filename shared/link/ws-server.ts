import { createServer, type IncomingMessage, type Server, type ServerResponse, STATUS_CODES } from 'node:http'
import { createServer as createTlsServer, type Server as TlsServer } from 'node:https'
import type { AddressInfo, Socket } from 'node:net'
import type { Duplex } from 'node:stream'
import type { TLSSocket } from 'node:tls'
import { WebSocketServer } from 'ws'
import { asHeadraceError, ERRORS, type ErrorCode, HeadraceError } from '../errors.ts'
import type { Certified } from '../security/identity.ts'
import type { Membership } from '../security/membership.ts'
import { type CapOptions, capConnections, type Refusal } from './connection-cap.ts'
import { gateKey, HandshakeGate } from './handshake-gate.ts'
import type { Link, LinkLimits } from './link.ts'
import { PATIENCE } from './link-watchdog.ts'
import { REFUSAL_HEADER, socketOptions, WsLink } from './ws-link.ts'

/** The listening side of links: on a server of its own, or on one that somebody else runs. */

const MAX_LINKS = 256
/** Connections beyond the links: scrapes of `/metrics`, probes of `/health`, handshakes under way. */
const SPARE_CONNECTIONS = 64
const MAX_HEADER_BYTES = 8192

export interface LinkOptions {
  /** The only path that is upgraded. */
  readonly path: string
  readonly limits: LinkLimits
  /** Links at the same time; the next one is refused with 503. */
  readonly maxLinks?: number
  /** The server has TLS: links are for workers of the cluster alone. */
  readonly secure?: Membership | undefined
  readonly onLink: (link: Link) => void
  /** Somebody was sent away. */
  readonly onRefused?: (reason: Refusal) => void
  readonly connections?: CapOptions
}

export interface ListenOptions extends LinkOptions {
  readonly host: string
  /** 0 takes any that is free. */
  readonly port: number
  /** For all of a request's header; default 10. */
  readonly headerSeconds?: number
  /** What `GET` answers, by path. */
  readonly routes?: Readonly<Record<string, Route>>
  /** Asked before them: whether it has taken the request over. */
  readonly serve?: (path: string, request: IncomingMessage, response: ServerResponse) => boolean
}

interface Answer {
  readonly status?: number
  readonly type: string
  readonly body: string
}

type Route = () => Answer | Promise<Answer>

export interface LinkServer {
  readonly url: string
  readonly port: number
  /** Closes all links and stops listening. */
  close(): Promise<void>
}

/** Takes over the upgrades of `server`, and bounds what one address may hold of it. Returns what ends that: it closes the links and refuses new ones. */
export function attachLinks(server: Server | TlsServer, options: LinkOptions): () => void {
  const upgrades = new WebSocketServer({ noServer: true, clientTracking: false, ...socketOptions(options.limits) })
  const links = new Set<Link>()
  const gate = new HandshakeGate()
  let stopped = false
  const onRefused = options.onRefused ?? (() => undefined)
  capConnections(server, onRefused, options.connections)
  server.on('tlsClientError', () => onRefused('tls'))

  server.on('upgrade', (request: IncomingMessage, socket: Duplex, head: Buffer) => {
    // From here on HTTP no longer watches the socket, and an error that nobody hears would end the process.
    socket.on('error', () => socket.destroy())
    if (pathOf(request) !== options.path) return refuse(socket, 404)
    if (stopped || links.size >= (options.maxLinks ?? MAX_LINKS)) {
      onRefused('links')
      return refuse(socket, 503)
    }
    const identity = admit(options, socket)
    if (identity instanceof HeadraceError) {
      onRefused('certificate')
      return refuse(socket, ERRORS[identity.code].status, identity.code)
    }
    const settle = knock(gate, request.socket, socket)
    if (settle === undefined) return onRefused('handshakes')
    upgrades.handleUpgrade(request, socket, head, (webSocket) => {
      const link = new WsLink(webSocket, peerOf(request), options.limits, { identity })
      link.watch(request.socket, options.limits.patience ?? PATIENCE)
      links.add(link)
      webSocket.once('message', settle)
      webSocket.once('close', () => links.delete(link))
      if (identity !== undefined) options.secure?.guard(link, identity)
      options.onLink(link)
    })
  })

  return () => {
    stopped = true
    for (const link of links) link.close()
  }
}

/** Asks the gate for a socket, and refuses it if it must. Returns what says that it has spoken; its end says so too. */
function knock(gate: HandshakeGate, { remoteAddress = '' }: Socket, socket: Duplex): (() => void) | undefined {
  const address = gateKey(remoteAddress)
  const refused = gate.knock(address, performance.now() / 1000)
  if (refused !== undefined) {
    refuse(socket, refused)
    return undefined
  }
  let owed = true
  const settle = (): void => {
    if (owed) gate.settled(address)
    owed = false
  }
  socket.once('close', settle)
  return settle
}

/** Who is behind the socket, where links have TLS; or why nobody may be. */
function admit({ secure }: LinkOptions, socket: Duplex): Certified | HeadraceError | undefined {
  if (secure === undefined) return undefined
  try {
    const peer = secure.peerOf(socket as TLSSocket)
    if (peer.role !== 'coordinator') return peer
    return new HeadraceError('certificate_refused', 'links are for workers')
  } catch (thrown) {
    return asHeadraceError(thrown)
  }
}

export async function listenLinks(options: ListenOptions): Promise<LinkServer> {
  const { host, secure } = options
  const server = serverFor(options, (request, response) => {
    if (options.serve?.(pathOf(request), request, response)) return
    void answer(options.routes ?? {}, request, response)
  })
  server.maxConnections = (options.maxLinks ?? MAX_LINKS) + SPARE_CONNECTIONS
  const detach = attachLinks(server, options)
  const port = await listening(server, host, options.port)
  return {
    port,
    url: `${secure ? 'wss' : 'ws'}://${host.includes(':') ? `[${host}]` : host}:${port}${options.path}`,
    close: () =>
      new Promise<void>((resolve) => {
        server.close(() => resolve())
        server.closeAllConnections()
        detach()
      }),
  }
}

function serverFor(
  { secure, headerSeconds = 10 }: ListenOptions,
  onRequest: (request: IncomingMessage, response: ServerResponse) => void,
): Server | TlsServer {
  const headerMs = Math.ceil(headerSeconds * 1000)
  const limits = {
    maxHeaderSize: MAX_HEADER_BYTES,
    headersTimeout: headerMs,
    requestTimeout: 3 * headerMs,
    connectionsCheckingInterval: Math.ceil(headerMs / 2),
    keepAliveTimeout: 10_000,
  }
  if (secure === undefined) return createServer(limits, onRequest)
  const server = createTlsServer({ ...limits, ...secure.serverOptions }, onRequest)
  secure.follow(server)
  return server
}

function listening(server: Server | TlsServer, host: string, port: number): Promise<number> {
  return new Promise((resolve, reject) => {
    // Later errors are of single connections that could not be accepted; they find the promise settled.
    server.on('error', (cause) =>
      reject(new HeadraceError('bad_config', `cannot listen on ${host}:${port}: ${cause.message}`, { cause })),
    )
    server.listen(port, host, () => resolve((server.address() as AddressInfo).port))
  })
}

async function answer(
  routes: Readonly<Record<string, Route>>,
  request: IncomingMessage,
  response: ServerResponse,
): Promise<void> {
  const { status = 200, type, body } = await answerOf(routes, request)
  response.writeHead(status, { 'content-type': type, 'content-length': Buffer.byteLength(body) })
  response.end(body)
}

async function answerOf(routes: Readonly<Record<string, Route>>, request: IncomingMessage): Promise<Answer> {
  const path = pathOf(request)
  const route = Object.hasOwn(routes, path) ? routes[path] : undefined
  if (route === undefined) return failure(404)
  if (request.method !== 'GET' && request.method !== 'HEAD') return failure(405)
  try {
    return await route()
  } catch {
    // The route reports its own errors; a probe learns only that there was one.
    return failure(500)
  }
}

function failure(status: number): Answer {
  return { status, type: 'text/plain; charset=utf-8', body: `${STATUS_CODES[status]}\n` }
}

/** A refused upgrade still gets an answer in HTTP; then the socket is done with. */
function refuse(socket: Duplex, status: number, code?: ErrorCode): void {
  const why = code === undefined ? '' : `${REFUSAL_HEADER}: ${code}\r\n`
  const head = `HTTP/1.1 ${status} ${STATUS_CODES[status]}\r\n${why}Connection: close\r\nContent-Length: 0\r\n\r\n`
  socket.end(head, () => socket.destroy())
}

function pathOf(request: IncomingMessage): string {
  return (request.url ?? '').split('?', 1)[0] ?? ''
}

function peerOf(request: IncomingMessage): string {
  return `${request.socket.remoteAddress}:${request.socket.remotePort}`
}
