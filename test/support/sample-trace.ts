import type { RunReport } from '../../coordinator/runs/events.ts'
import type { WorkerTrace } from '../../coordinator/trace/run-trace.ts'
import { asRunId } from '../../shared/ids.ts'
import { encodeTrace, type TraceSpan } from '../../shared/trace.ts'
import { chainPlan, reportOf } from './scripted-runs.ts'

/** A chain of two with a slow link, as the coordinator keeps it: 2.5 s to the first token, half of a second queued. */
export function tracedReport(run = 'run-1'): RunReport {
  const report = reportOf(chainPlan(101), 3)
  const milestones = [
    { name: 'queued', seconds: 0 },
    { name: 'planned', seconds: 0.5 },
    { name: 'assigned', seconds: 0.5 },
    { name: 'assembled', seconds: 2.4 },
    { name: 'first_token', seconds: 2.5 },
    { name: 'finished', seconds: 3 },
  ] as const
  return { ...report, run: asRunId(run), trace: { milestones, workers: [w1(), w2(), d1()] } }
}

const span = (kind: TraceSpan['kind'], layer: number, start: number, end: number, peer?: string): TraceSpan => ({
  kind,
  layer,
  start,
  end,
  ...(peer !== undefined && { peer }),
})

const w1 = () =>
  onClock('w1', 'prefill', -1000, [
    span('project', 0, 0.5, 0.7),
    span('attend', 0, 0.7, 1.1),
    span('mix', 0, 1.1, 1.3),
    span('project', 1, 1.3, 1.5),
    span('send', 0, 0.7, 1.5, 'w2'),
    span('send', 0, 0.7, 0.8, 'd1'),
    span('send', 1, 1.5, 1.6, 'd1'),
  ])

const w2 = () =>
  onClock('w2', 'prefill', 2000, [
    span('project', 0, 0.5, 0.7),
    span('attend', 0, 0.7, 0.9),
    span('wait', 0, 0.9, 1.5),
    span('attend', 0, 1.5, 1.9),
    span('mix', 0, 1.9, 2.1),
    span('project', 1, 2.1, 2.3),
    span('receive', 0, 1.2, 1.5, 'w1'),
    span('send', 0, 0.7, 0.7, 'd1'),
    span('send', 1, 2.3, 2.4, 'd1'),
  ])

const d1 = () =>
  onClock('d1', 'decode', 0, [
    span('wait', 1, 0.5, 2.4),
    span('project', 0, 2.4, 2.42),
    span('attend', 0, 2.42, 2.44),
    span('mix', 1, 2.44, 2.5),
    span('decode', 1, 2.5, 2.75),
    span('decode', 2, 2.75, 3),
    span('receive', 0, 0.7, 0.8, 'w1'),
    span('receive', 1, 1.6, 1.6, 'w1'),
    span('receive', 1, 2.4, 2.4, 'w2'),
  ])

/** The spans as a worker would send them whose clock said `arrivedSeconds` when the request arrived. */
function onClock(
  worker: string,
  role: WorkerTrace['role'],
  arrivedSeconds: number,
  spans: readonly TraceSpan[],
): WorkerTrace {
  const shifted = spans.map((of) => ({ ...of, start: of.start + arrivedSeconds, end: of.end + arrivedSeconds }))
  return { worker, role, arrivedSeconds, errorSeconds: 0.0005, bytes: encodeTrace(shifted) }
}
