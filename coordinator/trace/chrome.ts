import { spanTokens } from '../../shared/plan.ts'
import type { TraceSpan } from '../../shared/trace.ts'
import type { RunReport } from '../runs/events.ts'
import { type Milestone, spansOf, type WorkerTrace } from './run-trace.ts'

/**
 * A run in the Trace Event Format that Perfetto and chrome://tracing read ("Trace Event Format", Google, 2016). Process 1
 * is the coordinator, each worker is a process with a track for its arithmetic and one for each peer and direction.
 * Times are microseconds from the request's arrival.
 */
export interface ChromeTrace {
  readonly traceEvents: readonly ChromeEvent[]
  readonly displayTimeUnit: 'ms'
}

/** `X` is a span, `i` a moment, `M` the name of a process or track. */
export interface ChromeEvent {
  readonly ph: 'X' | 'i' | 'M'
  readonly name: string
  readonly pid: number
  readonly tid: number
  readonly ts: number
  readonly dur?: number
  readonly cat?: string
  /** Of a moment: it belongs to its track. */
  readonly s?: 't'
  readonly args?: Readonly<Record<string, unknown>>
}

const COORDINATOR = 1

export function chromeTrace(report: RunReport): ChromeTrace {
  const workers = inPlanOrder(report)
  return {
    traceEvents: [
      ...coordinatorEvents(report),
      ...workers.flatMap((worker, at) => workerEvents(worker, COORDINATOR + 1 + at)),
    ],
    displayTimeUnit: 'ms',
  }
}

/** The order of the chain or ring, then the decode node. */
function inPlanOrder({ plan, trace }: RunReport): WorkerTrace[] {
  const order = [...plan.workers.map(({ worker }) => String(worker)), plan.decode]
  return [...trace.workers].sort((a, b) => order.indexOf(a.worker) - order.indexOf(b.worker))
}

function coordinatorEvents(report: RunReport): ChromeEvent[] {
  const at = new Map(report.trace.milestones.map(({ name, seconds }) => [name, seconds]))
  const phase = (name: string, from: Milestone, to: Milestone): ChromeEvent[] => {
    const [start, end] = [at.get(from), at.get(to)]
    return start === undefined || end === undefined ? [] : [complete(COORDINATOR, 1, name, start, end)]
  }
  return [
    ...named(COORDINATOR, 'coordinator'),
    track(COORDINATOR, 1, 'run'),
    ...phase('queue', 'queued', 'planned'),
    ...phase('prefill', 'assigned', 'first_token'),
    ...phase('answer', 'first_token', 'finished'),
    ...report.trace.milestones.map(
      ({ name, seconds }): ChromeEvent => ({
        ph: 'i',
        s: 't',
        name: name.replace('_', ' '),
        pid: COORDINATOR,
        tid: 1,
        ts: micros(seconds),
        ...(name === 'planned' && { args: planArgs(report) }),
      }),
    ),
  ]
}

const planArgs = ({ run, plan }: RunReport) => ({
  run,
  strategy: plan.strategy,
  prompt_tokens: plan.promptTokens,
  prefill_tokens: plan.prefillTokens,
  workers: plan.workers.map(({ worker, spans }) => `${worker}: ${spanTokens(spans)} tokens`),
  decode: plan.decode,
  block_tokens: plan.blockTokens,
  predicted_ttft_seconds: plan.predictedTtftSeconds,
})

function workerEvents(worker: WorkerTrace, pid: number): ChromeEvent[] {
  const { errorSeconds } = worker
  const clock = errorSeconds === undefined ? 'clock unknown' : `clock ±${(errorSeconds * 1000).toFixed(3)} ms`
  const tracks = new Map<string, TraceSpan[]>()
  for (const span of spansOf(worker)) {
    const name = trackOf(span)
    const spans = tracks.get(name)
    if (spans) spans.push(span)
    else tracks.set(name, [span])
  }
  return [
    ...named(pid, worker.worker, clock),
    ...[...tracks].flatMap(([name, spans], at) => [
      track(pid, at + 1, name),
      ...spans
        .sort((a, b) => a.start - b.start)
        .map(({ kind, layer, start, end }) =>
          complete(pid, at + 1, kind, start, end, kind === 'decode' ? { token: layer } : { layer }),
        ),
    ]),
  ]
}

const trackOf = ({ kind, peer = '' }: TraceSpan): string =>
  kind === 'send' ? `send to ${peer}` : kind === 'receive' ? `receive from ${peer}` : 'compute'

const named = (pid: number, name: string, label?: string): ChromeEvent[] => [
  { ph: 'M', name: 'process_name', pid, tid: 0, ts: 0, args: { name } },
  { ph: 'M', name: 'process_sort_index', pid, tid: 0, ts: 0, args: { sort_index: pid } },
  ...(label === undefined
    ? []
    : [{ ph: 'M', name: 'process_labels', pid, tid: 0, ts: 0, args: { labels: label } } as const]),
]

const track = (pid: number, tid: number, name: string): ChromeEvent => ({
  ph: 'M',
  name: 'thread_name',
  pid,
  tid,
  ts: 0,
  args: { name },
})

/** Both ends are rounded, not the duration: what does not overlap stays so. */
function complete(pid: number, tid: number, name: string, start: number, end: number, args?: ChromeEvent['args']) {
  const ts = micros(start)
  return { ph: 'X', name, cat: 'run', pid, tid, ts, dur: micros(end) - ts, ...(args && { args }) } as const
}

const micros = (seconds: number): number => Math.round(seconds * 1e6)
