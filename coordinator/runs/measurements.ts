/** What a run that has ended says about the costs of its workers. Pure. */
import type { WorkerId } from '../../shared/ids.ts'
import type { ModelShape } from '../../shared/model-shape.ts'
import { type Plan, type Span, spanTokens } from '../../shared/plan.ts'
import type { Cost } from '../../shared/protocol/control.ts'
import type { WorkerReport } from '../../shared/protocol/run-types.ts'
import type { SpanKind } from '../../shared/trace.ts'
import type { ClusterEvent } from '../cluster/state.ts'
import { prefillSeconds } from '../planning/cost.ts'
import { type Moved, movedTokens } from '../planning/moving.ts'
import { type RunTrace, spansOf } from '../trace/run-trace.ts'

export interface Ended {
  readonly plan: Plan
  readonly workers: readonly WorkerReport[]
  readonly shape: ModelShape
  /** Another run was on its way at the same time. */
  readonly besideOthers: boolean
  readonly hostOf: (worker: WorkerId) => string | undefined
}

/** A shorter run is overhead and chance. */
const LEAST_TELLING_SECONDS = 0.05

type WorkerMeasured = Extract<ClusterEvent, { kind: 'worker_measured' }>

export function measurementsOf(ended: Ended): WorkerMeasured[] {
  const { plan, shape, besideOthers, hostOf } = ended
  const moved = movedTokens(
    plan.strategy,
    plan.workers.map(({ spans }) => spans),
  )
  const tail = decodeTokens(plan) > 1 ? [plan.decode] : []
  const hosts = [...plan.workers.map(({ worker }) => worker), ...tail].map(hostOf)
  const ofWorkers = plan.workers.flatMap(({ worker, spans }, i) => {
    // Whoever else computed on the host meanwhile makes this no measurement of the worker alone.
    const shared = besideOthers || hosts.some((host, other) => other !== i && host === hosts[i])
    const { received } = moved[i]!
    const work = { ...workOf(spans, received, shape), s: allMoved(spanTokens(spans), moved[i]!, shape) }
    return measured(ended.workers, worker, shared, work)
  })
  return [...ofWorkers, ...ofDecode(ended)]
}

/**
 * The decode node's own tokens follow the workers' through every layer, so whoever shares its host always computes beside
 * it. The last token alone says nothing: it waits most of the time.
 */
function ofDecode({ plan, workers, shape }: Ended): WorkerMeasured[] {
  const { decode, prefillTokens, promptTokens } = plan
  if (decodeTokens(plan) < 2) return []
  const spans = [{ start: prefillTokens, end: promptTokens }]
  return measured(workers, decode, false, { ...workOf(spans, prefillTokens, shape), s: shape.layers * prefillTokens })
}

function measured(reports: readonly WorkerReport[], worker: WorkerId, shared: boolean, work: Cost): WorkerMeasured[] {
  const report = reports.find((own) => own.worker === worker)
  if (report === undefined || report.computeSeconds < LEAST_TELLING_SECONDS) return []
  const { computeSeconds, attendSeconds, takeInSeconds, movingSeconds, waitSeconds } = report
  const times = { computeSeconds, attendSeconds, takeInSeconds, movingSeconds, waitSeconds }
  return [{ kind: 'worker_measured', worker, shared, measured: { work, ...times } }]
}

const decodeTokens = ({ promptTokens, prefillTokens }: Plan): number => promptTokens - prefillTokens

/** Of the last layer nothing but the hand-off is needed. */
const allMoved = (own: number, { prefix, received, relayed }: Moved, { layers }: ModelShape): number =>
  layers * own + (layers - 1) * (prefix + received + relayed)

/**
 * Seconds of a run that are no part of its pipeline: from the plan to the first arithmetic anywhere, and from the last
 * before the first token to that token. Undefined if its trace does not tell.
 */
export function edgeSecondsOf({ milestones, workers }: RunTrace): number | undefined {
  const [planned, answered] = (['planned', 'first_token'] as const).map(
    (wanted) => milestones.find(({ name }) => name === wanted)?.seconds,
  )
  const arithmetic = workers.flatMap(spansOf).filter(({ kind, end }) => ARITHMETIC.has(kind) && end <= (answered ?? 0))
  if (planned === undefined || answered === undefined || arithmetic.length === 0) return undefined
  const first = arithmetic.reduce((least, { start }) => Math.min(least, start), answered)
  const last = arithmetic.reduce((most, { end }) => Math.max(most, end), planned)
  return Math.max(0, first - planned) + (answered - last)
}

const ARITHMETIC: ReadonlySet<SpanKind> = new Set(['project', 'attend', 'mix'])

/** A prefill's seconds are linear in the coefficients: what one second of each would add up to. */
const workOf = (spans: readonly Span[], taken: number, shape: ModelShape): Cost => ({
  o: prefillSeconds({ o: 1, a: 0, b: 0 }, spans, shape),
  a: prefillSeconds({ o: 0, a: 1, b: 0 }, spans, shape),
  b: prefillSeconds({ o: 0, a: 0, b: 1 }, spans, shape),
  c: (shape.layers - 1) * taken,
})
