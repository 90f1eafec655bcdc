import type { Clock, Random } from '../../shared/clock.ts'
import { asHeadraceError, HeadraceError, isErrorCode } from '../../shared/errors.ts'
import { CONTROL_LIMITS, type Dialer, type Link } from '../../shared/link/link.ts'
import type { Log } from '../../shared/log.ts'
import type { Cost } from '../../shared/protocol/control.ts'
import { type Command, commandSchema, eventSchema, type Join, type WorkerEvent } from '../../shared/protocol/control.ts'
import { decodeMessage, encodeMessage } from '../../shared/protocol/messages.ts'
import type { Membership } from '../../shared/security/membership.ts'
import { Idle } from '../idle.ts'
import { LinkMeasuring, type PeerAddress } from '../peers/measuring.ts'
import type { TicketBook } from '../security/ticket-book.ts'
import { checkDecode, checkPrefill } from './check-command.ts'
import { DecodeSession } from './decode-session.ts'
import { PrefillSession } from './prefill-session.ts'
import type { Session, SessionDeps } from './session.ts'

/** Waits between attempts to reach the coordinator: doubling, with jitter, so that a fleet does not knock in step. */
const RETRY_FIRST_SECONDS = 0.2
const RETRY_MOST_SECONDS = 2
const SILENCE_LIMIT_SECONDS = 15
/** What dialling again does not cure. */
const FINAL: ReadonlySet<string> = new Set([
  'fingerprint_mismatch',
  'precision_mismatch',
  'protocol_mismatch',
  'identity_revoked',
])
/** Far beyond what a coordinator lets a worker have at once; more is a flood. */
const MOST_SESSIONS = 256
/** Longer than the coordinator takes to notice that a link is dead. */
const NAME_GRACE_SECONDS = 20

export interface AgentOptions {
  readonly coordinatorUrl: string
  readonly join: Join
  readonly dialer: Dialer
  readonly random: Random
  readonly clock: Clock
  readonly log: Log
  /** Everything a session needs but the way to report, which is this agent's link. */
  readonly session: Omit<SessionDeps, 'report'>
  /** Learns here how tickets are checked. */
  readonly tickets: TicketBook
  /** Absent: a cluster without certificates. */
  readonly membership?: Membership | undefined
  readonly residentBytes: () => number
  readonly collectGarbage: () => void
}

/**
 * A worker's link to its coordinator: dials until it answers, joins, calibrates once, then does what it is told. When the
 * link breaks, its runs are cancelled and it dials again. Only a refusal (another model, another protocol) is final.
 */
export class Agent {
  readonly #of: AgentOptions
  readonly #sessions = new Map<string, Session>()
  readonly #leaving = new AbortController()
  readonly #idle: Idle
  readonly #measuring: LinkMeasuring
  #link: Link | undefined
  /** Over this link it has joined. */
  #member = false
  #cost: Cost | undefined
  #calibrating: Promise<Cost> | undefined
  #retrySeconds = RETRY_FIRST_SECONDS
  /** Since when the coordinator has said that this worker's name is taken. */
  #nameTakenSince: number | undefined
  /** Whole seconds in which nothing has come from the coordinator. */
  #silentSeconds = 0
  /** Names of KV that has outlived its run. */
  #kept: readonly string[] = []
  #onDismissed: () => void = () => undefined

  constructor(of: AgentOptions) {
    this.#of = of
    this.#idle = new Idle(of.clock, of.collectGarbage)
    const { dialer, clock, log, session } = of
    const { worker, fingerprint, buffers } = session
    this.#measuring = new LinkMeasuring({ dialer, worker, fingerprint, clock, log, buffers })
    session.compute.watchKept((names) => {
      this.#kept = names
      void this.#report({ kind: 'kv_kept', names: [...names] })
    })
  }

  /** Serves until `leave`. Rejects with the coded refusal if the coordinator does not want this worker. */
  async serve(): Promise<void> {
    const { log, clock, coordinatorUrl } = this.#of
    const signal = this.#leaving.signal
    this.#idle.begin() // what starting has left behind
    while (!signal.aborted) {
      try {
        await this.#connect(signal)
      } catch (thrown) {
        const error = asHeadraceError(thrown)
        if (this.#isFinal(error)) throw error
        if (signal.aborted) return
        const seconds = this.#retrySeconds * (0.5 + this.#of.random())
        log.info(
          { coordinatorUrl, code: error.code, retrySeconds: Number(seconds.toFixed(1)) },
          `waiting for the coordinator: ${error.message}`,
        )
        await clock.sleep(seconds, signal).catch(() => undefined) // leaving ends the wait
        this.#retrySeconds = Math.min(this.#retrySeconds * 2, RETRY_MOST_SECONDS)
      }
    }
  }

  /** Runs that this worker has a part in. */
  get running(): number {
    return this.#sessions.size
  }

  /** Takes no new runs, lets those it has end (up to `graceSeconds`), then goes. */
  async leave(graceSeconds: number): Promise<void> {
    const grace = new AbortController()
    const late = this.#of.clock.sleep(graceSeconds, grace.signal).catch(() => undefined) // ended in time
    await Promise.race([this.#finishRuns(), late])
    grace.abort()
    this.#leaving.abort(new HeadraceError('shutting_down', 'the worker is leaving'))
    this.#cancelAll(new HeadraceError('shutting_down', 'the worker is leaving'))
    this.#link?.close()
  }

  /** Assignments may be on their way until the coordinator has answered `leaving`. */
  async #finishRuns(): Promise<void> {
    const link = this.#link
    if (link === undefined) return
    const dismissed = new Promise<void>((resolve) => {
      this.#onDismissed = resolve
      link.closed.addEventListener('abort', () => resolve(), { once: true })
    })
    void this.#report({ kind: 'leaving' })
    await dismissed
    await Promise.all([...this.#sessions.values()].map((session) => session.ended))
  }

  async #connect(signal: AbortSignal): Promise<void> {
    const { dialer, coordinatorUrl, join, session, log } = this.#of
    const link = await this.#dial(() => dialer.dial(coordinatorUrl, CONTROL_LIMITS, signal))
    this.#link = link
    this.#member = false
    const watch = this.#watchSilence(link)
    try {
      await link.send(encodeMessage(eventSchema, join))
      for (let frame = await link.receive(); frame; frame = await link.receive()) {
        this.#silentSeconds = 0
        const { message, payload } = decodeMessage(commandSchema, frame, CONTROL_LIMITS.maxFrameBytes)
        // Who asks without listening waits for its own answers: none pile up here.
        if (message.kind === 'ping') await this.#pong(message.seq)
        else this.#obey(message, payload)
      }
      throw new HeadraceError('link_closed', 'the coordinator closed the link')
    } catch (thrown) {
      link.close(asHeadraceError(thrown))
      throw thrown
    } finally {
      await watch
      this.#link = undefined
      session.metrics.connected.set(0)
      this.#cancelAll(new HeadraceError('link_closed', 'the coordinator is gone'))
      log.debug('control link closed')
    }
  }

  /**
   * The coordinator asks for a sign of life every second, so silence means that its host or the network is gone without a
   * word. Seconds are counted, not read off a clock, so that a stall of this process is not taken for one of the other.
   */
  async #watchSilence(link: Link): Promise<void> {
    this.#silentSeconds = 0
    while (!link.closed.aborted) {
      await this.#of.clock.sleep(1, link.closed).catch(() => undefined) // the loop's condition ends it
      if (++this.#silentSeconds > SILENCE_LIMIT_SECONDS)
        link.close(new HeadraceError('link_closed', `the coordinator is silent for ${SILENCE_LIMIT_SECONDS} s`))
    }
  }

  /**
   * A name may be held for a while by this worker's own broken link; another model, precision or protocol does not pass,
   * and neither does a process that has taken this one's place.
   */
  #isFinal({ code }: HeadraceError): boolean {
    if (code !== 'name_taken') return FINAL.has(code)
    if (this.#member) return true
    this.#nameTakenSince ??= this.#of.clock.now()
    return this.#of.clock.now() - this.#nameTakenSince > NAME_GRACE_SECONDS
  }

  async #dial(dial: () => Promise<Link>): Promise<Link> {
    const { dials } = this.#of.session.metrics
    try {
      const link = await dial()
      dials.inc({ result: 'ok' })
      return link
    } catch (error) {
      dials.inc({ result: 'failed' })
      throw error
    }
  }

  #pong(seq: number): Promise<void> | undefined {
    const { residentBytes, clock } = this.#of
    return this.#report({ kind: 'pong', seq, residentBytes: residentBytes(), clockSeconds: clock.now() })
  }

  #obey(command: Exclude<Command, { kind: 'ping' }>, payload: Uint8Array): void {
    switch (command.kind) {
      case 'joined':
        this.#of.tickets.learn(command.tickets, command.epoch)
        this.#joined()
        return
      case 'tickets':
        this.#sessions.get(command.run)?.hold(command.tickets)
        return
      case 'denied':
        this.#of.membership?.deny(command.list)
        return
      case 'refused':
        throw new HeadraceError(isErrorCode(command.code) ? command.code : 'internal', command.message)
      case 'prefill': {
        const tokens = int32(payload)
        checkPrefill(command, tokens.length, this.#of.session.compute.shape)
        this.#open(command.run, (deps) => new PrefillSession(command, tokens, deps))
        return
      }
      case 'decode':
        checkDecode(command, this.#of.session.compute.shape)
        this.#open(command.run, (deps) => new DecodeSession(command, int32(payload), deps))
        return
      case 'stop':
        this.#sessions.get(command.run)?.stop()
        return
      case 'lost':
        this.#sessions.get(command.run)?.lost(command.worker)
        return
      case 'repair':
        this.#sessions.get(command.run)?.mend(command)
        return
      case 'survey':
        this.#sessions.get(command.run)?.survey(command)
        return
      case 'measure_links':
        this.#measureLinks(command.peers)
        return
      case 'dismissed':
        this.#onDismissed()
        return
      case 'cancel':
        this.#sessions
          .get(command.run)
          ?.cancel(
            new HeadraceError(isErrorCode(command.code) ? command.code : 'cancelled', 'the coordinator cancelled'),
          )
        return
      case 'sources':
        throw new HeadraceError('unexpected_message', `${command.kind} after join`)
      default:
        command satisfies never
    }
  }

  #joined(): void {
    const { log, session, join } = this.#of
    this.#member = true
    session.metrics.joins.inc()
    session.metrics.connected.set(1)
    this.#retrySeconds = RETRY_FIRST_SECONDS
    this.#nameTakenSince = undefined
    log.info({ role: join.role, coordinatorUrl: this.#of.coordinatorUrl }, 'joined')
    const link = this.#link
    this.#calibrate().then(
      () => {
        if (link !== this.#link) return
        void this.#report({ kind: 'ready', ...(this.#cost && { cost: this.#cost }) })
        if (this.#kept.length > 0) void this.#report({ kind: 'kv_kept', names: [...this.#kept] })
      },
      (error: unknown) => link?.close(asHeadraceError(error)),
    )
  }

  /** Once in a process: the machine does not change because a link broke. */
  async #calibrate(): Promise<void> {
    if (this.#cost !== undefined) return
    // A link that broke meanwhile is no reason to start a second time, beside the first.
    this.#calibrating ??= this.#of.session.compute.calibrate()
    this.#cost = await this.#calibrating
    this.#of.log.info({ cost: this.#cost }, 'calibrated')
  }

  #measureLinks(peers: readonly PeerAddress[]): void {
    const link = this.#link
    const measured = this.#sessions.size > 0 ? Promise.resolve([]) : this.#measuring.measure(peers)
    measured.then(
      (links) => {
        if (this.#sessions.size === 0) this.#idle.begin() // measuring takes memory, too
        if (link === this.#link) void this.#report({ kind: 'links_measured', links })
      },
      (error: unknown) => link?.close(asHeadraceError(error)),
    )
  }

  #open(run: string, create: (deps: SessionDeps) => Session): void {
    const { session: deps } = this.#of
    if (this.#sessions.has(run)) throw new HeadraceError('unexpected_message', `run ${run} is here already`)
    if (this.#sessions.size >= MOST_SESSIONS)
      throw new HeadraceError('unexpected_message', `more than ${MOST_SESSIONS} runs at once`)
    const link = this.#link
    const report = (event: WorkerEvent, payload?: Uint8Array): void => {
      if (link !== undefined && link === this.#link) void this.#report(event, payload)
    }
    const session = create({ ...deps, report })
    this.#sessions.set(run, session)
    this.#measuring.stop(new HeadraceError('cancelled', 'a run needs the links'))
    this.#idle.end()
    deps.metrics.runsActive.set(this.#sessions.size)
    const forget = (): void => {
      this.#sessions.delete(run)
      if (this.#sessions.size === 0) this.#idle.begin()
      deps.metrics.runsActive.set(this.#sessions.size)
    }
    session.ended.then(forget, forget)
  }

  #cancelAll(reason: HeadraceError): void {
    this.#measuring.stop(reason)
    for (const session of this.#sessions.values()) session.cancel(reason)
  }

  /** Never rejects. */
  #report(event: WorkerEvent, payload?: Uint8Array): Promise<void> | undefined {
    // A broken link ends `#connect`, which cancels every run: nothing is lost in silence.
    return this.#link
      ?.send(encodeMessage(eventSchema, event, payload))
      .catch((error: unknown) => this.#of.log.debug({ err: error, kind: event.kind }, 'not delivered'))
  }
}

/** Token ids out of a payload. A copy, because its buffer goes to another thread. */
function int32(payload: Uint8Array): Int32Array<ArrayBuffer> {
  if (payload.byteLength % 4 !== 0) throw new HeadraceError('frame_bad_schema', 'token ids are not whole')
  const bytes = payload.slice()
  return new Int32Array(bytes.buffer, 0, bytes.byteLength / 4)
}
