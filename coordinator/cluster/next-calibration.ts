/**
 * Who may calibrate now. A worker times its processor as soon as it is told that it has joined; another one of its host
 * that did so at the same time would be timed too, so they take turns. The registry tells them.
 */
import type { WorkerId } from '../../shared/ids.ts'
import type { ClusterState } from './state.ts'

/** Longer than any calibration: what hangs in one, or never comes, must not keep the rest of its host out. */
const PATIENCE_SECONDS = 60

/** Times in monotonic seconds. */
export interface Calibrations {
  /** Those that have been told, and when; of them, who is still joining calibrates. */
  readonly begun: ReadonlyMap<WorkerId, number>
  /** How many are about to join: what loads a model beside one that is timed takes its time, too. */
  readonly expected: number
  /** When the first one joined. */
  readonly since: number
}

export function mayCalibrate(
  { workers }: ClusterState,
  { begun, expected, since }: Calibrations,
  now: number,
): WorkerId[] {
  if (begun.size === 0 && workers.length < expected && now - since < PATIENCE_SECONDS) return []
  const joining = workers.filter(({ state }) => state === 'joining')
  const busy = new Set(
    joining.filter(({ id }) => now - (begun.get(id) ?? Number.NEGATIVE_INFINITY) < PATIENCE_SECONDS).map((w) => w.host),
  )
  const next: WorkerId[] = []
  for (const { id, host } of joining) {
    if (begun.has(id) || busy.has(host)) continue
    busy.add(host)
    next.push(id)
  }
  return next
}

/** Whose turn it has been. */
export class CalibrationTurns {
  readonly #expected: number
  readonly #begun = new Map<WorkerId, number>()
  #since: number | undefined

  constructor(expected = 0) {
    this.#expected = expected
  }

  joined(worker: WorkerId, now: number): void {
    this.#begun.delete(worker)
    this.#since ??= now
  }

  gone(worker: WorkerId): void {
    this.#begun.delete(worker)
  }

  /** Who is to be told now that it has joined. */
  begin(state: ClusterState, now: number): WorkerId[] {
    const calibrations = { begun: this.#begun, expected: this.#expected, since: this.#since ?? now }
    const next = mayCalibrate(state, calibrations, now)
    for (const worker of next) this.#begun.set(worker, now)
    return next
  }
}
