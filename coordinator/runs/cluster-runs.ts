import { randomUUID } from 'node:crypto'
import type { Clock } from '../../shared/clock.ts'
import { HeadraceError } from '../../shared/errors.ts'
import { asRunId, type RunId } from '../../shared/ids.ts'
import type { ModelShape } from '../../shared/model-shape.ts'
import type { Plan, Strategy } from '../../shared/plan.ts'
import type { Registry } from '../cluster/registry.ts'
import { readyDecode, readyPrefill, toClusterView } from '../cluster/state.ts'
import { type PlanAsk, type Planned, planPrefill } from '../planning/plan-prefill.ts'
import { Admission } from './admission.ts'
import type { ClusterView, RunEvent, RunReport, RunRequest, Runs } from './events.ts'
import type { QueueLimits } from './queue.ts'
import { runRequest } from './run.ts'

export interface ClusterRunsOptions {
  readonly registry: Registry
  readonly shape: ModelShape
  /** For requests that ask for none; absent leaves it to the planner. */
  readonly strategy: Strategy | undefined
  readonly limits?: QueueLimits
  readonly clock: Clock
}

/** The weight of a new run in the rate that waiting times are estimated by. */
const RATE_GAIN = 0.3
/** A shorter run is mostly overhead and chance. */
const LEAST_TELLING_SECONDS = 0.2

/** `Runs` over a real cluster: admission, the registry's facts, and a plan per request. */
export class ClusterRuns implements Runs {
  readonly #of: ClusterRunsOptions
  readonly #admission: Admission
  readonly #live = new Set<AbortController>()
  #closed: HeadraceError | undefined
  #tokensPerSecond = 0

  constructor(of: ClusterRunsOptions) {
    this.#of = of
    this.#admission = new Admission(of.clock, of.limits)
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
    const { registry, shape, clock } = this.#of
    const deps = {
      admission: this.#admission,
      workers: registry,
      layers: shape.layers,
      tokensPerSecond: () => this.#tokensPerSecond,
      planNow: (of: RunRequest) => this.plan(of.promptTokens.length, of).chosen,
      occupy: (run: RunId, plan: Plan) => this.#occupy(run, plan),
      clock,
    }
    const run = asRunId(randomUUID())
    for await (const event of runRequest(run, request, deps, signal)) {
      if (event.kind === 'finished') this.#measured(event.report)
      yield event
    }
  }

  plan(promptTokens: number, ask: { strategy?: Strategy; workers?: number } = {}): Planned {
    const { registry, shape } = this.#of
    const strategy = ask.strategy ?? this.#of.strategy
    const wanted: PlanAsk = {
      ...(strategy !== undefined && { strategy }),
      ...(ask.workers !== undefined && { workers: ask.workers }),
    }
    const workers = readyPrefill(registry.state).map((worker) => ({ ...worker, threads: worker.cores }))
    const decode = readyDecode(registry.state).map(({ id, host, cores, runs }) => ({
      id,
      host,
      cores,
      threads: cores,
      runs: runs.length,
    }))
    return planPrefill({ shape, promptTokens, workers, decode, links: new Map(), narrowestWire: 'f32' }, wanted)
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

  /**
   * Workers of one run were busy at the same time, which is how the next split will find them; a solo run says nothing
   * about that, unless there is nobody to split with.
   */
  #correctCosts({ plan, workers }: RunReport): void {
    const { registry } = this.#of
    if (plan.workers.length === 1 && readyPrefill(registry.state).length > 1) return
    for (const { worker, computeSeconds: predictedSeconds } of plan.workers) {
      const measuredSeconds = workers.find((report) => report.worker === worker)?.computeSeconds ?? 0
      if (measuredSeconds < LEAST_TELLING_SECONDS || predictedSeconds === 0) continue
      registry.apply({ kind: 'worker_measured', worker, predictedSeconds, measuredSeconds })
    }
  }

  #occupy(run: RunId, plan: Plan): () => void {
    const { registry } = this.#of
    const workers = [...plan.workers.map(({ worker }) => worker), plan.decode]
    for (const worker of workers) registry.apply({ kind: 'run_assigned', worker, run })
    return () => {
      for (const worker of workers) registry.apply({ kind: 'run_released', worker, run })
    }
  }

  #measured(report: RunReport): void {
    const { promptTokens, ttftSeconds, queueSeconds } = report
    this.#correctCosts(report)
    const tokensPerSecond = promptTokens / Math.max(ttftSeconds - queueSeconds, 1e-6)
    const old = this.#tokensPerSecond
    this.#tokensPerSecond = old === 0 ? tokensPerSecond : old + RATE_GAIN * (tokensPerSecond - old)
  }
}
