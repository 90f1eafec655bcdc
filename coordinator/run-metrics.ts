import type { Clock } from '../shared/clock.ts'
import { asHeadraceError, ERRORS } from '../shared/errors.ts'
import { isResumed, type Plan } from '../shared/plan.ts'
import type { CoordinatorMetrics, RunStatus } from './metrics.ts'
import type { RunEvent, RunReport, RunRequest, Runs } from './runs/events.ts'

/** The same runs, with every event counted on its way: the one place where run metrics are kept. */
export function measuredRuns(runs: Runs, metrics: CoordinatorMetrics, clock: Clock): Runs {
  const links = createLinkLabels()
  return {
    plan: (promptTokens, ask) => runs.plan(promptTokens, ask),
    unready: () => runs.unready(),
    cluster: () => runs.cluster(),
    async *run(request, signal) {
      const record = createRecord(metrics, clock, request, links)
      try {
        for await (const event of runs.run(request, signal)) {
          record.note(event)
          yield event
        }
      } catch (thrown) {
        record.failed(thrown)
        throw thrown
      } finally {
        // Also reached when the caller leaves early, which a stop string does.
        record.close(signal.aborted)
      }
    },
  }
}

function createRecord(metrics: CoordinatorMetrics, clock: Clock, request: RunRequest, links: LinkLabels) {
  const started = clock.now()
  let plan: Plan | undefined
  let queueSeconds = 0
  let tokens = 0
  let report: RunReport | undefined
  let failure: RunStatus | undefined

  function firstToken(): void {
    const ttft = clock.now() - started
    metrics.ttft.observe(ttft)
    if (plan === undefined || isResumed(plan)) return
    metrics.prefill.observe({ strategy: plan.strategy }, Math.max(0, ttft - queueSeconds))
    // A prediction is of the plan's own time: it cannot know the queue.
    const measured = ttft - queueSeconds
    if (measured > 0) metrics.predictionError.observe(Math.abs(plan.predictedTtftSeconds - measured) / measured)
  }

  return {
    note(event: RunEvent): void {
      if (event.kind === 'planned') {
        plan = event.plan
        queueSeconds = event.queueSeconds
        observePlan(metrics, request, event.plan, queueSeconds)
      } else if (event.kind === 'token') {
        if (tokens === 0) firstToken()
        tokens += 1
      } else if (event.kind === 'failed_over') metrics.failovers.inc({ reason: event.code })
      else if (event.kind === 'finished') report = event.report
    },
    failed(thrown: unknown): void {
      const { status } = ERRORS[asHeadraceError(thrown).code]
      failure = plan === undefined && (status < 500 || status === 503) ? 'refused' : 'failed'
    },
    close(aborted: boolean): void {
      const status: RunStatus = report !== undefined ? 'finished' : aborted ? 'cancelled' : (failure ?? 'finished')
      metrics.requests.inc({ status, strategy: plan?.strategy ?? 'none' })
      metrics.generationTokens.inc(tokens)
      if (tokens === 0) return
      const cached = report?.cachedTokens ?? 0
      metrics.promptTokens.inc({ source: 'cached' }, cached)
      metrics.promptTokens.inc({ source: 'computed' }, request.promptTokens.length - cached)
      if (report !== undefined) observeReport(metrics, report, links)
    },
  }
}

function observePlan(metrics: CoordinatorMetrics, request: RunRequest, plan: Plan, queueSeconds: number): void {
  const asked = request.strategy !== undefined || request.workers !== undefined
  metrics.decisions.inc({ strategy: plan.strategy, reason: asked ? 'asked' : plan.bound })
  metrics.queue.observe(queueSeconds)
  metrics.phase.observe({ phase: 'queue' }, queueSeconds)
}

function observeReport(
  metrics: CoordinatorMetrics,
  { workers, decodeSeconds, repairs }: RunReport,
  links: LinkLabels,
): void {
  const prefill = workers.filter(({ role }) => role === 'prefill')
  const slowest = (key: 'computeSeconds' | 'waitSeconds' | 'sendSeconds') =>
    prefill.reduce((most, worker) => Math.max(most, worker[key]), 0)
  metrics.phase.observe({ phase: 'decode' }, decodeSeconds)
  for (const { code, tokens } of repairs) {
    metrics.repairs.inc({ reason: code })
    metrics.repairedTokens.inc(tokens)
  }
  for (const { worker, sent } of workers)
    for (const { to, bytes } of sent) metrics.linkBytes.inc({ ...links(worker, to), direction: 'sent' }, bytes)
  if (prefill.length === 0) return
  metrics.phase.observe({ phase: 'compute' }, slowest('computeSeconds'))
  metrics.phase.observe({ phase: 'wait' }, slowest('waitSeconds'))
  metrics.phase.observe({ phase: 'send' }, slowest('sendSeconds'))
  const mean = prefill.reduce((sum, { computeSeconds }) => sum + computeSeconds, 0) / prefill.length
  if (mean > 0) metrics.imbalance.observe(slowest('computeSeconds') / mean)
}

/** Workers that come and go under new names must not add series without end: from here on they share one. */
const MAX_LINKS = 1024

type LinkLabels = ReturnType<typeof createLinkLabels>

function createLinkLabels() {
  const known = new Set<string>()
  return (worker: string, peer: string) => {
    const link = JSON.stringify([worker, peer])
    if (known.size < MAX_LINKS) known.add(link)
    return known.has(link) ? { worker, peer } : { worker: 'other', peer: 'other' }
  }
}
