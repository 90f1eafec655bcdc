import type { Clock } from '../../shared/clock.ts'
import type { Role } from '../../shared/protocol/control.ts'
import { decodeTraces, type TraceSpan } from '../../shared/trace.ts'
import type { WorkerNews } from '../runs/news.ts'
import type { ClockOffset } from './alignment.ts'

/** Steps of a run that the coordinator sees itself. */
export type Milestone = 'queued' | 'planned' | 'assigned' | 'assembled' | 'first_token' | 'finished'

/** A run as it was, all times in seconds from the request's arrival. */
export interface RunTrace {
  /** In order. */
  readonly milestones: readonly { readonly name: Milestone; readonly seconds: number }[]
  readonly workers: readonly WorkerTrace[]
}

/** Spans as the worker sent them, because those of many runs are kept; `spansOf` reads them. */
export interface WorkerTrace {
  readonly worker: string
  readonly role: Role
  readonly bytes: Uint8Array
  /** What the worker's clock said at the request's arrival. */
  readonly arrivedSeconds: number
  /** How far off that may be; absent if no ping has told, and the moment its trace came was taken for the trace's end. */
  readonly errorSeconds?: number
}

export const spansOf = ({ bytes, arrivedSeconds }: WorkerTrace): TraceSpan[] =>
  decodeTraces(bytes).map((span) => ({
    ...span,
    start: span.start - arrivedSeconds,
    end: span.end - arrivedSeconds,
  }))

/** Gathers the trace of one run while it goes on. */
export class RunTracer {
  readonly #clock: Clock
  readonly #arrived: number
  readonly #offsetOf: (worker: string) => ClockOffset | undefined
  readonly #milestones: { name: Milestone; seconds: number }[] = []
  readonly #workers: WorkerTrace[] = []
  #answering = false

  constructor(clock: Clock, arrived: number, offsetOf: (worker: string) => ClockOffset | undefined) {
    this.#clock = clock
    this.#arrived = arrived
    this.#offsetOf = offsetOf
    this.#milestones.push({ name: 'queued', seconds: 0 })
  }

  reached(name: Milestone): void {
    this.#milestones.push({ name, seconds: this.#clock.now() - this.#arrived })
  }

  /** Throws `frame_bad_schema` if a worker's trace cannot be read. */
  note({ worker, event, payload }: WorkerNews): void {
    if (event.kind === 'kv_assembled') this.reached('assembled')
    else if (event.kind === 'token_sampled' && !this.#answering) {
      this.#answering = true
      this.reached('first_token')
    } else if (event.kind === 'finished') this.#take(worker, event.report.role, payload)
  }

  trace(): RunTrace {
    return { milestones: this.#milestones, workers: this.#workers }
  }

  #take(worker: string, role: Role, payload: Uint8Array): void {
    const spans = decodeTraces(payload)
    const known = this.#offsetOf(worker)
    const offset = known?.offsetSeconds ?? spans.reduce((most, { end }) => Math.max(most, end), 0) - this.#clock.now()
    this.#workers.push({
      worker,
      role,
      bytes: payload.slice(),
      arrivedSeconds: this.#arrived + offset,
      ...(known && { errorSeconds: known.errorSeconds }),
    })
  }
}
