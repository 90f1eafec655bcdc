import { asRunId, type RunId } from '../../shared/ids.ts'
import type { RunReport } from '../runs/events.ts'

export interface StoredRun {
  /** Unix seconds of the request's arrival. */
  readonly created: number
  readonly report: RunReport
}

const MAX_RUNS = 64
const MAX_BYTES = 64 * 2 ** 20

/** The last runs that finished, with their traces. Bounded in number and bytes: the oldest go first. */
export class RunStore {
  readonly #runs = new Map<RunId, StoredRun>()
  readonly #maxBytes: number
  #bytes = 0

  constructor(maxBytes = MAX_BYTES) {
    this.#maxBytes = maxBytes
  }

  add(run: StoredRun): void {
    this.#runs.set(run.report.run, run)
    this.#bytes += sizeOf(run)
    for (const [oldest, { report, created }] of this.#runs) {
      if (this.#runs.size <= MAX_RUNS && this.#bytes <= this.#maxBytes) return
      this.#runs.delete(oldest)
      this.#bytes -= sizeOf({ report, created })
    }
  }

  get(run: string): StoredRun | undefined {
    return this.#runs.get(asRunId(run))
  }

  /** Latest first. */
  recent(): StoredRun[] {
    return [...this.#runs.values()].reverse()
  }
}

const sizeOf = ({ report }: StoredRun): number => report.trace.workers.reduce((sum, { bytes }) => sum + bytes.length, 0)
