/**
 * Who may calibrate now. A worker times its processor as soon as it is told that it has joined; another one of its host
 * that did so at the same time would be timed too, so they take turns. Pure: the registry tells them.
 */
import type { WorkerId } from '../../shared/ids.ts'
import type { ClusterState } from './state.ts'

/** Longer than any calibration: what hangs in one must not keep the rest of its host out. */
const PATIENCE_SECONDS = 60

/** @param begun those that have been told, and when; of them, who is still joining calibrates */
export function mayCalibrate({ workers }: ClusterState, begun: ReadonlyMap<WorkerId, number>, now: number): WorkerId[] {
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
