import type { Clock } from '../../shared/clock.ts'
import { asHeadraceError, HeadraceError } from '../../shared/errors.ts'
import type { BufferPool } from '../../shared/link/buffer-pool.ts'
import type { Log } from '../../shared/log.ts'
import type { Repair, Survey, WorkerEvent } from '../../shared/protocol/control.ts'
import type { HeldTicket } from '../../shared/protocol/tickets.ts'
import type { Compute } from '../compute/compute.ts'
import type { ComputeEvent } from '../compute/messages.ts'
import type { WorkerMetrics } from '../metrics.ts'
import type { PeerDialling } from '../peers/dialling.ts'
import type { PeerListening } from '../peers/listening.ts'
import { TraceRecorder } from '../trace/recorder.ts'
import { checkRepair } from './check-command.ts'

/** Each of as many parts as a run may have, made up for again and again. */
const MOST_REPAIRS = 1024

/** What every session of a worker works with. */
export interface SessionDeps {
  readonly worker: string
  readonly fingerprint: string
  readonly compute: Compute
  readonly dialling: PeerDialling
  readonly listening: PeerListening
  readonly metrics: WorkerMetrics
  /** Memory of KV frames. What a session has done with goes back there. */
  readonly buffers: BufferPool
  readonly clock: Clock
  readonly log: Log
  /** To the coordinator, in order; a link that has gone takes nothing, and the agent has cancelled all by then. */
  readonly report: (event: WorkerEvent, payload?: Uint8Array) => void
}

/** One worker's part in one run. It ends once: finished, failed (both reported) or cancelled (not reported). */
export abstract class Session {
  readonly run: string
  protected readonly deps: SessionDeps
  /** Of the links; the compute thread records its own. */
  protected readonly trace: TraceRecorder
  readonly #controller = new AbortController()
  readonly #ended: Promise<void>
  #tickets: readonly HeldTicket[]
  #repairs = 0
  #settle: () => void = () => undefined

  constructor({ run, tickets }: { run: string; tickets: readonly HeldTicket[] }, deps: SessionDeps) {
    this.run = run
    this.#tickets = tickets
    this.deps = deps
    this.trace = new TraceRecorder(deps.clock)
    this.#ended = new Promise((resolve) => {
      this.#settle = resolve
    })
  }

  /** Resolves when the session holds nothing any more. Never rejects. */
  get ended(): Promise<void> {
    return this.#ended
  }

  /** Fresh tickets in the place of those that end. */
  hold(tickets: readonly HeldTicket[]): void {
    this.#tickets = tickets
  }

  /** @throws `ticket_refused` if the coordinator gave none: then the run has no business at that worker */
  protected ticketFor(source: string): string {
    const found = this.#tickets.find((held) => held.source === source)
    if (found === undefined) throw new HeadraceError('ticket_refused', `run ${this.run} has no ticket for ${source}`)
    return found.ticket
  }

  protected get signal(): AbortSignal {
    return this.#controller.signal
  }

  protected get over(): boolean {
    return this.#controller.signal.aborted
  }

  /** The client has all it wants: end in good order. Only decoding has anything to end. */
  stop(): void {
    this.deps.log.debug({ run: this.run }, 'nothing to stop here')
  }

  /** Another worker of the run is gone. Decode nodes are told what to do about it instead. */
  lost(worker: string): void {
    this.deps.log.debug({ run: this.run, worker }, 'no matter here')
  }

  /** A repair that has been checked. There is a bound to how many a run may need. */
  mend(repair: Repair): void {
    checkRepair(repair, this.deps.compute.shape)
    if (++this.#repairs > MOST_REPAIRS)
      throw new HeadraceError('unexpected_message', `more than ${MOST_REPAIRS} repairs of run ${this.run}`)
    this.repair(repair)
  }

  /** To a decode node: somebody makes up for another worker. */
  protected repair({ part }: Repair): void {
    throw new HeadraceError('unexpected_message', `${part} is no repair of anything here`)
  }

  /** To a decode node: what is missing of a worker's part, of which no more is to be taken. */
  survey({ part }: Survey): void {
    throw new HeadraceError('unexpected_message', `${part} does not come here`)
  }

  /** The coordinator wants no more of it. */
  cancel(reason: HeadraceError): void {
    if (this.over) return
    this.deps.log.info({ run: this.run, code: reason.code }, 'run cancelled')
    this.#end('cancelled', reason)
  }

  /** @param compute the trace of the compute thread, encoded */
  protected finish(event: Extract<WorkerEvent, { kind: 'finished' }>, compute: Uint8Array): void {
    if (this.over) return
    this.deps.metrics.observe(event.report)
    this.deps.report(event, Buffer.concat([compute, this.trace.encode()]))
    this.#end('finished', new HeadraceError('cancelled', 'the run is finished here'))
  }

  protected fail(thrown: unknown): void {
    if (this.over) return
    const error = asHeadraceError(thrown)
    this.deps.log.error({ run: this.run, code: error.code, details: error.details }, error.message)
    const message = error.message.slice(0, 2048)
    this.deps.report({ kind: 'failed', run: this.run, code: error.code, message })
    this.#end('failed', error)
  }

  /** What goes wrong while an event is handled ends this run, not the process. */
  protected attempt(work: () => void): void {
    try {
      work()
    } catch (thrown) {
      this.fail(thrown)
    }
  }

  /** Lets go of links, memory and the compute thread's work. */
  protected abstract clear(): void

  #end(status: 'finished' | 'failed' | 'cancelled', reason: HeadraceError): void {
    this.#controller.abort(reason)
    this.clear()
    this.deps.metrics.runs.inc({ status })
    this.#settle()
  }
}

/** Where the time of a run's arithmetic went, as a report has it: what is not known is absent. */
export const timesOf = (done: Extract<ComputeEvent, { kind: 'finished' }>) => {
  const { computeSeconds, attendSeconds, takeInSeconds, movingSeconds, waitSeconds } = done
  return {
    computeSeconds,
    attendSeconds,
    ...(takeInSeconds !== undefined && { takeInSeconds }),
    ...(movingSeconds !== undefined && { movingSeconds }),
    waitSeconds,
  }
}
