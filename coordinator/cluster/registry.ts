import type { Clock } from '../../shared/clock.ts'
import { asHeadraceError, HeadraceError } from '../../shared/errors.ts'
import { asWorkerId, type RunId, type WorkerId } from '../../shared/ids.ts'
import { CONTROL_LIMITS, type Link } from '../../shared/link/link.ts'
import type { Log } from '../../shared/log.ts'
import { PieceSet } from '../../shared/model-store/piece-set.ts'
import type { Precision } from '../../shared/precision.ts'
import {
  type Command,
  commandSchema,
  eventSchema,
  type Fetching,
  type Join,
  PROTOCOL_VERSION,
  type WorkerEvent,
} from '../../shared/protocol/control.ts'
import { decodeMessage, encodeMessage } from '../../shared/protocol/messages.ts'
import type { Membership } from '../../shared/security/membership.ts'
import type { CoordinatorMetrics, DISCONNECT_REASONS } from '../metrics.ts'
import { sourcesFor } from '../models/sources.ts'
import type { RunFollower, Workers } from '../runs/workers.ts'
import { type TicketAsk, TicketOffice } from '../security/ticket-office.ts'
import { LinkWatch } from './link-watch.ts'
import { CalibrationTurns } from './next-calibration.ts'
import {
  applyEvent,
  type ClusterEvent,
  type ClusterState,
  EMPTY_CLUSTER,
  findWorker,
  silentWorkers,
  type WorkerPlace,
} from './state.ts'

export interface RegistryOptions {
  readonly fingerprint: string
  /** What workers' numbers must be true to; absent: the same for all, whatever the first one brings. */
  readonly precision?: Precision
  /** Whether workers of several precisions may be in the cluster at once. */
  readonly mixedPrecision?: boolean
  /** Workers and decode nodes that are about to join. Default: 0. */
  readonly expectedWorkers?: number
  /** Absent: a cluster without certificates. */
  readonly membership?: Membership | undefined
  readonly clock: Clock
  readonly metrics: CoordinatorMetrics
  readonly log: Log
}

const PING_SECONDS = 0.5
/**
 * Sockets tell of a dead process at once; silence on an open one means that the host or its main thread hangs. No
 * arithmetic is done there, so that is no matter of load.
 */
const SILENCE_LIMIT_SECONDS = 2.5
/** Of a worker whose model is on its way: it speaks when it has more. */
const FETCH_SILENCE_SECONDS = 10

/** What a link to a worker is doing here. */
interface Connection {
  readonly link: Link
  readonly epoch: number
  pingSeq: number
  pingAt: number
}

/**
 * The rim around the cluster's state: takes the links that workers dial, turns what they say and their silences into
 * events, and carries commands back.
 */
export class Registry implements Workers {
  readonly #of: RegistryOptions
  readonly #connections = new Map<WorkerId, Connection>()
  readonly #followers = new Map<string, RunFollower>()
  readonly #links: LinkWatch
  readonly #tickets: TicketOffice
  readonly #calibrations: CalibrationTurns
  #state: ClusterState = EMPTY_CLUSTER
  /** Times that workers have joined. */
  #epoch = 0
  readonly #listeners = new Set<() => void>()

  constructor(of: RegistryOptions) {
    this.#of = of
    this.#calibrations = new CalibrationTurns(of.expectedWorkers)
    this.#links = new LinkWatch(this, of.clock, of.log)
    this.#tickets = new TicketOffice(of.clock, of.membership?.cluster)
  }

  get state(): ClusterState {
    return this.#state
  }

  /** Serves one worker's link until it closes. Never rejects. */
  async serve(link: Link): Promise<void> {
    let worker: WorkerId | undefined
    let fetchingAt: string | undefined
    let reason = new HeadraceError('link_closed', 'the worker closed the link')
    try {
      for (let frame = await link.receive(); frame; frame = await link.receive()) {
        const { message, payload } = decodeMessage(eventSchema, frame, CONTROL_LIMITS.maxFrameBytes)
        if (worker !== undefined) this.#heard(worker, message, payload)
        else if (message.kind === 'join') worker = await this.#admit(message, link)
        else if (message.kind === 'fetching') {
          checkSame(fetchingAt, message)
          fetchingAt = await this.#tellSources(message, payload, link)
        } else throw new HeadraceError('unexpected_message', `${message.kind} before join`)
      }
      link.close()
    } catch (thrown) {
      reason = asHeadraceError(thrown)
      this.#of.log.warn({ worker, peer: link.peer, code: reason.code, details: reason.details }, reason.message)
      link.close(reason)
    }
    if (fetchingAt !== undefined) this.apply({ kind: 'fetch_ended', url: fetchingAt })
    if (worker !== undefined && this.#connections.get(worker)?.link === link) this.#gone(worker, reason)
  }

  /** Asks every worker for a sign of life, and keeps the links measured, until aborted. */
  async keepWatch(signal: AbortSignal): Promise<void> {
    const { clock } = this.#of
    let looked = clock.now()
    while (!signal.aborted) {
      // After a stall of this process the workers' answers wait unread: look again when they have been.
      const stalled = clock.now() - looked > 3 * PING_SECONDS
      looked = clock.now()
      for (const silent of stalled ? [] : silentWorkers(this.#state, looked, SILENCE_LIMIT_SECONDS))
        this.#connections
          .get(silent)
          ?.link.close(new HeadraceError('worker_lost', `no sign of life for ${SILENCE_LIMIT_SECONDS} s`))
      for (const [worker, connection] of this.#connections) {
        connection.pingSeq++
        connection.pingAt = clock.now()
        this.send(worker, { kind: 'ping', seq: connection.pingSeq })
      }
      for (const { url, lastSeen } of this.#state.fetching)
        if (looked - lastSeen > FETCH_SILENCE_SECONDS) this.apply({ kind: 'fetch_ended', url })
      this.#letCalibrate()
      this.#links.tick()
      await clock.sleep(PING_SECONDS, signal).catch(() => undefined) // the loop's condition ends it
    }
  }

  apply(event: ClusterEvent): void {
    this.#state = applyEvent(this.#state, event)
  }

  urlOf(worker: string): string {
    return findWorker(this.#state, asWorkerId(worker))?.url ?? ''
  }

  epochOf(worker: string): number {
    return this.#connections.get(asWorkerId(worker))?.epoch ?? 0
  }

  /** Called when a worker has become ready. Returns what ends that. */
  onReady(listener: () => void): () => void {
    this.#listeners.add(listener)
    return () => this.#listeners.delete(listener)
  }

  send(worker: string, command: Command, payload?: Uint8Array): void {
    const connection = this.#connections.get(asWorkerId(worker))
    // If the link breaks, `serve` notices and tells every run that follows this worker.
    connection?.link
      .send(encodeMessage(commandSchema, command, payload))
      .catch((error: unknown) => this.#of.log.debug({ err: error, worker, kind: command.kind }, 'not delivered'))
  }

  ticket(of: TicketAsk): string {
    return this.#tickets.sign(of, this.epochOf(of.source))
  }

  /** Whom no worker may talk to. Links to here of those on it are closed by who guards them. */
  tellDenied(): void {
    const list = [...(this.#of.membership?.denied ?? [])]
    for (const worker of this.#connections.keys()) this.send(worker, { kind: 'denied', list })
  }

  has(worker: string): boolean {
    return this.#connections.has(asWorkerId(worker))
  }

  follow(run: RunId, follower: RunFollower): () => void {
    this.#followers.set(run, follower)
    return () => this.#followers.delete(run)
  }

  /** Runs that hear of workers. */
  get followers(): number {
    return this.#followers.size
  }

  close(): void {
    for (const { link } of this.#connections.values()) link.close()
  }

  async #admit(join: Join, link: Link): Promise<WorkerId> {
    const { clock, log } = this.#of
    const worker = asWorkerId(join.name)
    try {
      checkIdentity(join, link)
      this.#checkJoin(join)
      const { url, precision } = join
      this.#replaceHalfOpen(worker, url)
      this.apply({ kind: 'worker_joined', at: clock.now(), worker: { ...placeOf(join), precision } })
    } catch (thrown) {
      throw await this.#refuse(thrown, link)
    }
    this.#connections.set(worker, { link, epoch: ++this.#epoch, pingSeq: 0, pingAt: clock.now() })
    this.#calibrations.joined(worker, clock.now())
    const denied = this.#of.membership?.denied ?? []
    if (denied.length > 0) this.send(worker, { kind: 'denied', list: [...denied] })
    this.#letCalibrate()
    const { role, url, engine, precision } = join
    log.info({ worker, role, url, engine, precision }, 'worker joined')
    return worker
  }

  /**
   * The same worker at the same address: its old link is dead, though this side has not heard of it yet. If it is not,
   * another process holds it, which must not come back: the two would replace each other for ever.
   */
  #replaceHalfOpen(worker: WorkerId, url: string): void {
    const old = this.#connections.get(worker)
    if (old === undefined || findWorker(this.#state, worker)?.url !== url) return
    const message = `another process has joined as ${worker} at ${url}`
    this.send(worker, { kind: 'refused', code: 'name_taken', message })
    const replaced = new HeadraceError('link_closed', `${worker} dialled again`)
    this.#gone(worker, replaced)
    old.link.close(replaced)
  }

  /** Its model is on its way: where there is more of it. Returns its address. */
  async #tellSources(message: Fetching, bits: Uint8Array, link: Link): Promise<string> {
    try {
      checkProtocol(message)
      checkIdentity(message, link)
    } catch (thrown) {
      throw await this.#refuse(thrown, link)
    }
    const { pieces, url } = message
    const have = new PieceSet(pieces, bits)
    this.apply({ kind: 'model_fetching', worker: { ...placeOf(message), have, lastSeen: this.#of.clock.now() } })
    const { command, payload } = sourcesFor(this.#state, url, pieces)
    await link.send(encodeMessage(commandSchema, command, payload))
    return url
  }

  async #refuse(thrown: unknown, link: Link): Promise<HeadraceError> {
    const error = asHeadraceError(thrown)
    this.#of.metrics.joinsRefused.inc({ code: error.code })
    await link.send(
      encodeMessage(commandSchema, { kind: 'refused', code: error.code, message: error.message.slice(0, 2048) }),
    )
    return error
  }

  #checkJoin(join: Join): void {
    checkProtocol(join)
    const { fingerprint } = this.#of
    if (join.fingerprint !== fingerprint)
      throw new HeadraceError(
        'fingerprint_mismatch',
        `the worker's model is ${join.fingerprint}, the coordinator's is ${fingerprint}`,
        { details: { worker: join.fingerprint, coordinator: fingerprint } },
      )
    const { precision, mixedPrecision } = this.#of
    const wanted = precision ?? this.#state.workers[0]?.precision ?? join.precision
    if (join.precision !== wanted && !mixedPrecision)
      throw new HeadraceError(
        'precision_mismatch',
        `the worker computes in ${join.precision}, the cluster in ${wanted}: answers would depend on who computes them ` +
          '(--allow-mixed-precision on the coordinator admits it)',
        { details: { worker: join.precision, cluster: wanted } },
      )
  }

  #heard(worker: WorkerId, event: WorkerEvent, payload: Uint8Array): void {
    const at = this.#of.clock.now()
    this.apply({ kind: 'worker_heard', at, worker })
    switch (event.kind) {
      case 'join':
      case 'fetching':
        throw new HeadraceError('unexpected_message', `${event.kind} from ${worker}, which has joined`)
      case 'ready':
        this.apply({ kind: 'worker_calibrated', at, worker, ...(event.cost && { cost: event.cost }) })
        this.#letCalibrate()
        this.#of.log.info({ worker, cost: event.cost }, 'worker ready')
        for (const listener of this.#listeners) listener()
        return
      case 'pong': {
        const connection = this.#connections.get(worker)
        if (connection?.pingSeq !== event.seq) return // late: the next one counts
        const rttSeconds = at - connection.pingAt
        const { residentBytes, clockSeconds } = event
        this.apply({ kind: 'worker_pinged', at, worker, rttSeconds, residentBytes, clockSeconds })
        return
      }
      case 'kv_kept':
        this.apply({ kind: 'kv_kept', worker, names: event.names })
        return
      case 'links_measured':
        this.#links.answered(worker, event.links)
        return
      case 'leaving':
        this.apply({ kind: 'worker_leaving', at, worker })
        this.send(worker, { kind: 'dismissed' })
        this.#of.log.info({ worker }, 'worker leaving')
        return
      default:
        this.#followers.get(event.run)?.onEvent(worker, event, payload)
    }
  }

  /** A worker that is told that it has joined calibrates. */
  #letCalibrate(): void {
    for (const worker of this.#calibrations.begin(this.#state, this.#of.clock.now())) {
      const tickets = this.#tickets.rule
      this.send(worker, { kind: 'joined', worker, epoch: this.epochOf(worker), tickets })
    }
  }

  #gone(worker: WorkerId, reason: HeadraceError): void {
    this.#connections.delete(worker)
    this.#links.gone(worker)
    this.#calibrations.gone(worker)
    const leaving = findWorker(this.#state, worker)?.state === 'leaving'
    this.apply(leaving ? { kind: 'forgotten', worker } : { kind: 'worker_lost', worker, reason: reason.message })
    const cause = leaving ? 'leaving' : disconnectReason(reason)
    this.#of.metrics.disconnects.inc({ reason: cause })
    this.#of.log.info({ worker, reason: cause }, 'worker gone')
    for (const follower of this.#followers.values()) follower.onLost(worker, reason)
    this.#letCalibrate()
  }
}

function checkProtocol({ protocol }: { protocol: number }): void {
  if (protocol !== PROTOCOL_VERSION)
    throw new HeadraceError('protocol_mismatch', `the worker speaks version ${protocol}, not ${PROTOCOL_VERSION}`)
}

/** A worker is who its certificate says, not who it says it is. */
function checkIdentity({ name, role }: Join | Fetching, { identity }: Link): void {
  if (identity === undefined || (identity.name === name && identity.role === role)) return
  throw new HeadraceError('certificate_refused', `${identity.role} ${identity.name} calls itself ${role} ${name}`)
}

/** Else each message could leave another worker behind that nobody knows to be gone. */
function checkSame(fetchingAt: string | undefined, { url }: Fetching): void {
  if (fetchingAt !== undefined && fetchingAt !== url)
    throw new HeadraceError('unexpected_message', `fetching at ${url} on the link of ${fetchingAt}`)
}

const placeOf = (of: Join | Fetching): WorkerPlace => {
  const { name, role, engine, host, url, cores, threads, memoryBytes, budgetBytes } = of
  return { id: asWorkerId(name), role, engine, host, url, cores, threads, memoryBytes, budgetBytes }
}

const disconnectReason = ({ code }: HeadraceError): (typeof DISCONNECT_REASONS)[number] =>
  code === 'link_closed' ? 'link_closed' : code === 'worker_lost' ? 'silent' : 'protocol'
