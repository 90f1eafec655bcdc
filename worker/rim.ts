import type { IncomingMessage, ServerResponse } from 'node:http'
import { availableParallelism, totalmem } from 'node:os'
import type { TLSSocket } from 'node:tls'
import { SERVING_LIMITS } from '../shared/link/link.ts'
import { type LinkServer, listenLinks } from '../shared/link/ws-server.ts'
import type { Log } from '../shared/log.ts'
import type { LocalModel } from '../shared/model-store/identity.ts'
import { contentsOf } from '../shared/model-store/manifest.ts'
import { BLOB_PATH, serveBlob } from '../shared/model-store/serve-blob.ts'
import { Shelf } from '../shared/model-store/shelf.ts'
import { type Fetching, PROTOCOL_VERSION } from '../shared/protocol/control.ts'
import type { Membership } from '../shared/security/membership.ts'
import { machineName } from './machine.ts'
import type { WorkerMetrics } from './metrics.ts'
import type { PeerListening } from './peers/listening.ts'
import type { WorkerConfig } from './worker.ts'

/** A worker's one port: other workers' links, files of the model for those that have none, `/metrics` and `/health`. */
export class WorkerRim {
  readonly shelf = new Shelf()
  readonly metrics: WorkerMetrics
  readonly log: Log
  readonly #config: WorkerConfig
  readonly #secure: Membership | undefined
  #server: LinkServer | undefined
  #listening: PeerListening | undefined

  constructor(config: WorkerConfig, metrics: WorkerMetrics, log: Log, secure?: Membership) {
    this.#secure = secure
    this.#config = config
    this.metrics = metrics
    this.log = log
  }

  async listen(): Promise<void> {
    const { host, port, role, name, engine, threads } = this.#config
    const { metrics, log } = this
    this.#server = await listenLinks({
      host,
      port,
      path: '/link',
      limits: SERVING_LIMITS,
      secure: this.#secure,
      onRefused: (reason) => metrics.connectionsRefused.inc({ reason }),
      onLink: (link) => {
        // Before it has a model nobody can know of it, so nobody has business here.
        if (this.#listening === undefined) link.close()
        else this.#listening.serve(link).catch((error: unknown) => log.error({ err: error }, 'a peer was not served'))
      },
      routes: {
        '/metrics': async () => ({ type: 'text/plain; version=0.0.4; charset=utf-8', body: await metrics.text() }),
        '/health': async () => ({ type: 'application/json', body: JSON.stringify({ status: 'ok', role, name }) }),
      },
      serve: (path, request, response) => this.#serveBlob(path, request, response),
    })
    log.info(
      {
        url: this.place.url,
        metrics: `${this.#secure ? 'https' : 'http'}://${this.#at(host)}/metrics`,
        engine,
        threads,
      },
      'listening',
    )
  }

  /** What the worker says of itself, once it listens. */
  get place(): Omit<Fetching, 'kind' | 'pieces'> {
    const { name, role, engine, threads, host, advertise, kvBudgetBytes } = this.#config
    return {
      protocol: PROTOCOL_VERSION,
      name,
      role,
      engine,
      url: `${this.#secure ? 'wss' : 'ws'}://${this.#at(advertise ?? host)}/link`,
      host: machineName(advertise ?? host),
      cores: availableParallelism(),
      threads,
      memoryBytes: totalmem(),
      budgetBytes: kvBudgetBytes,
    }
  }

  takeLinks(listening: PeerListening): void {
    this.#listening = listening
  }

  /** A model of its own is there for others too. Returns its fingerprint. */
  giveAway({ manifest, pathOf }: LocalModel): string {
    for (const file of contentsOf(manifest)) this.shelf.put(file.sha256, { path: pathOf(file), size: file.size })
    this.metrics.weightsReady.set(1)
    return manifest.fingerprint
  }

  async close(): Promise<void> {
    await this.#server?.close()
  }

  #serveBlob(path: string, request: IncomingMessage, response: ServerResponse): boolean {
    if (!path.startsWith(BLOB_PATH) || (request.method !== 'GET' && request.method !== 'HEAD')) return false
    if (!this.#isMember(request)) {
      response.writeHead(403, { 'content-length': 0 }).end()
      return true
    }
    serveBlob(this.shelf, path.slice(BLOB_PATH.length), request, response).then(
      (bytes) => this.metrics.weightsSentBytes.inc(bytes),
      (error: unknown) => this.log.error({ err: error }, 'a file of the model was not served'),
    )
    return true
  }

  /** The weights are for members; what else is here by HTTP is for everybody. */
  #isMember({ socket }: IncomingMessage): boolean {
    try {
      this.#secure?.peerOf(socket as TLSSocket)
      return true
    } catch (error) {
      this.log.warn({ err: error, peer: socket.remoteAddress }, 'a file of the model was asked for by no member')
      return false
    }
  }

  #at(host: string): string {
    return `${host.includes(':') ? `[${host}]` : host}:${this.#server?.port}`
  }
}
