import { randomUUID } from 'node:crypto'
import type { Clock } from '../../shared/clock.ts'
import { HeadraceError } from '../../shared/errors.ts'
import { asRunId, asWorkerId, type RunId, type WorkerId } from '../../shared/ids.ts'
import { kvBytesPerTokenLayer, type ModelShape } from '../../shared/model-shape.ts'
import type { Plan, Strategy, Wire } from '../../shared/plan.ts'
import { planFacts } from '../cluster/facts.ts'
import type { Registry } from '../cluster/registry.ts'
import { findWorker, readyDecode, readyPrefill } from '../cluster/state.ts'
import { toClusterView } from '../cluster/view.ts'
import { type PlanAsk, type Planned, planPrefill } from '../planning/plan-prefill.ts'
import { bestOffset } from '../trace/alignment.ts'
import type { RunStore } from '../trace/store.ts'
import { Admission } from './admission.ts'
import type { ClusterView, RunEvent, RunReport, RunRequest, Runs } from './events.ts'
import { forecastAfter, NO_FORECAST } from './forecast.ts'
import { measurementsOf } from './measurements.ts'
import { decodeMemory, needOf } from './needs.ts'
import { Progress } from './progress.ts'
import type { QueueLimits } from './queue.ts'
import { runRequest } from './run.ts'

export interface ClusterRunsOptions {
  readonly registry: Registry
  readonly shape: ModelShape
  /** For requests that ask for none; absent leaves it to the planner. */
  readonly strategy: Strategy | undefined
  /** The narrowest precision that KV may have between machines. */
  readonly narrowestWire: Wire
  readonly limits?: QueueLimits
  readonly clock: Clock
  /** Where runs go when they have finished. */
  readonly store: RunStore
}

/** `Runs` over a real cluster: admission, the registry's facts, and a plan per request. */
export class ClusterRuns implements Runs {
  readonly #of: ClusterRunsOptions
  readonly #admission: Admission
  readonly #progress: Progress
  readonly #live = new Set<AbortController>()
  #closed: HeadraceError | undefined
  #forecast = NO_FORECAST

  constructor(of: ClusterRunsOptions) {
    this.#of = of
    this.#admission = new Admission(
      of.clock,
      of.limits,
      decodeMemory(() => of.registry.state),
    )
    this.#progress = new Progress(of.clock)
  }

  async *run(request: RunRequest, signal: AbortSignal): AsyncGenerator<RunEvent, void> {
    const live = new AbortController()
    const leave = (): void => live.abort(signal.reason)
    if (signal.aborted) leave()
    if (this.#closed !== undefined) live.abort(this.#closed)
    signal.addEventListener('abort', leave, { once: true })
    this.#live.add(live)
    try {
      yield* this.#run(request, live.signal)
    } finally {
      this.#live.delete(live)
      signal.removeEventListener('abort', leave)
    }
  }

  /** Ends all runs, and those to come, with this error. */
  close(reason: HeadraceError): void {
    this.#closed = reason
    for (const live of this.#live) live.abort(reason)
  }

  async *#run(request: RunRequest, signal: AbortSignal): AsyncGenerator<RunEvent, void> {
    const { registry, shape, clock, store } = this.#of
    const deps = {
      admit: (id: RunId, of: RunRequest, left: AbortSignal) =>
        this.#admission.enter(id, needOf(of, registry.state, shape, this.#forecast), left),
      progress: this.#progress,
      workers: registry,
      layers: shape.layers,
      planNow: (of: RunRequest) => this.plan(of.promptTokens.length, of).chosen,
      occupy: (run: RunId, plan: Plan) => this.#occupy(run, plan, request.maxTokens),
      offsetOf: (worker: string) => bestOffset(findWorker(registry.state, asWorkerId(worker))?.clock ?? []),
      precisionOf: (worker: string) => findWorker(registry.state, asWorkerId(worker))?.precision ?? 'f32',
      clock,
    }
    const run = asRunId(randomUUID())
    const created = Math.floor(Date.now() / 1000)
    for await (const event of runRequest(run, request, deps, signal)) {
      if (event.kind === 'finished') {
        this.#measured(event.report)
        store.add({ created, report: event.report })
      }
      yield event
    }
  }

  plan(promptTokens: number, ask: PlanAsk & { maxTokens?: number } = {}): Planned {
    const { registry, shape, narrowestWire } = this.#of
    const strategy = ask.strategy ?? this.#of.strategy
    const wanted: PlanAsk = {
      ...(strategy !== undefined && { strategy }),
      ...(ask.workers !== undefined && { workers: ask.workers }),
      ...(ask.shares !== undefined && { shares: ask.shares }),
    }
    const { maxTokens } = ask
    const { edgeSeconds, pace } = this.#forecast
    const most = maxTokens !== undefined && { maxTokens }
    const facts = planFacts(registry.state, { shape, promptTokens, narrowestWire, edgeSeconds, pace, ...most })
    return planPrefill(facts, wanted)
  }

  unready(): HeadraceError | undefined {
    const { state } = this.#of.registry
    if (readyPrefill(state).length === 0) return new HeadraceError('no_workers', 'no prefill worker is ready')
    if (readyDecode(state).length === 0) return new HeadraceError('no_decode_node', 'no decode node is ready')
    return undefined
  }

  cluster(): ClusterView {
    const { running, waiting } = this.#admission
    return toClusterView(this.#of.registry.state, this.#of.clock.now(), { running, waiting })
  }

  #occupy(run: RunId, plan: Plan, maxTokens: number): (worker?: string) => void {
    const { registry, shape } = this.#of
    const { decode, promptTokens } = plan
    const kvBytes = shape.layers * kvBytesPerTokenLayer(shape) * (promptTokens + maxTokens)
    for (const { worker } of plan.workers) registry.apply({ kind: 'run_assigned', worker, run })
    registry.apply({ kind: 'run_assigned', worker: decode, run, kvBytes })
    const all = [...plan.workers.map((own) => own.worker), decode]
    return (one) => {
      for (const worker of all)
        if (one === undefined || one === worker) registry.apply({ kind: 'run_released', worker, run })
    }
  }

  #measured(report: RunReport): void {
    const { plan, workers } = report
    const { registry, shape } = this.#of
    const besideOthers = this.#admission.running > 1
    const hostOf = (worker: WorkerId): string | undefined => findWorker(registry.state, worker)?.host
    for (const event of measurementsOf({ plan, workers, shape, besideOthers, hostOf })) registry.apply(event)
    this.#forecast = forecastAfter(this.#forecast, report, besideOthers)
  }
}
