import { type AttemptOptions, attemptRun } from '../../coordinator/runs/attempt.ts'
import type { RunRequest } from '../../coordinator/runs/events.ts'
import { Progress } from '../../coordinator/runs/progress.ts'
import type { Workers } from '../../coordinator/runs/workers.ts'
import type { Clock } from '../../shared/clock.ts'
import { asRunId } from '../../shared/ids.ts'
import type { Plan } from '../../shared/plan.ts'

/** A plan on its way, with nothing around it: no queue, nobody to make up for who fails unless a test says so. */
export interface SentOut extends Partial<AttemptOptions> {
  readonly id: string
  readonly plan: Plan
  readonly request: RunRequest
  readonly layers: number
  readonly workers: Workers
  readonly clock: Clock
}

export const sentOut = (of: SentOut, signal: AbortSignal = new AbortController().signal) =>
  attemptRun(
    {
      watch: new Progress(of.clock).watch(asRunId(of.id), 60),
      repairers: () => [],
      occupy: () => () => undefined,
      secondsLeft: () => 0,
      onRepair: () => undefined,
      onChecked: () => undefined,
      checks: [],
      ...of,
    },
    signal,
  )
