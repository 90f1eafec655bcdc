import { randomUUID } from 'node:crypto'
import type { Clock, Random } from '../../shared/clock.ts'
import { asHeadraceError, HeadraceError } from '../../shared/errors.ts'
import { asRunId, asWorkerId, type RunId, type WorkerId } from '../../shared/ids.ts'
import type { ModelShape } from '../../shared/model-shape.ts'
import { isResumed, type Plan, type Strategy, type Wire } from '../../shared/plan.ts'
import type { Precision } from '../../shared/precision.ts'
import type { BlockCheck, Checked } from '../../shared/protocol/control.ts'
import { planFacts, repairersIn, secondsLeftOf } from '../cluster/facts.ts'
import type { Registry } from '../cluster/registry.ts'
import { findWorker, idle, readyDecode, readyPrefill } from '../cluster/state.ts'
import { toClusterView } from '../cluster/view.ts'
import { type PlanAsk, type Planned, planPrefill } from '../planning/plan-prefill.ts'
import { bestOffset } from '../trace/alignment.ts'
import type { RunStore } from '../trace/store.ts'
import { Admission } from './admission.ts'
import type { ClusterView, RunEvent, RunReport, RunRequest, Runs } from './events.ts'
import { forecastAfter, NO_FORECAST } from './forecast.ts'
import { resumption } from './kept-kv.ts'
import { measurementsOf } from './measurements.ts'
import { decodeMemory, needOf, secondsOf } from './needs.ts'
import { Occupancy, type Occupied } from './occupancy.ts'
import type { Part } from './parts.ts'
import { Progress } from './progress.ts'
import type { QueueLimits } from './queue.ts'
import { runRequest } from './run.ts'
import { drawChecks } from './self-check.ts'

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
  /** How many of the KV blocks are computed again; absent: none. */
  readonly selfCheck?: {
    readonly rate: number
    readonly random: Random
    readonly onChecked: (checked: Checked) => void
  }
  /** Names a run as no other is named. Default: at random. */
  readonly newRunId?: () => string
}

/** How long a run that was begun waits for workers to compute the rest. */
const REPLAN_SECONDS = 30
const WORTH_A_WAIT: ReadonlySet<string> = new Set(['no_workers', 'no_decode_node', 'plan_impossible'])

/** `Runs` over a real cluster: admission, the registry's facts, and a plan per request. */
export class ClusterRuns implements Runs {
  readonly #of: ClusterRunsOptions
  readonly #admission: Admission
  readonly #progress: Progress
  readonly #occupancy: Occupancy
  readonly #live = new Set<AbortController>()
  #closed: HeadraceError | undefined
  #forecast = NO_FORECAST

  constructor(of: ClusterRunsOptions) {
    this.#of = of
    this.#admission = new Admission({
      clock: of.clock,
      limits: of.limits,
      secondsOf: (tokens) => secondsOf(tokens, of.registry.state, of.shape, this.#forecast),
      memory: decodeMemory(() => of.registry.state),
    })
    this.#progress = new Progress(of.clock)
    this.#occupancy = new Occupancy(of.registry, of.shape)
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
      admit: (id: RunId, of: RunRequest, left: AbortSignal) => this.#admission.enter(id, needOf(of, shape), left),
      progress: this.#progress,
      workers: registry,
      layers: shape.layers,
      planNow: (id: RunId, of: RunRequest, until: AbortSignal) => this.#planNow(id, of, until),
      planAgain: (id: RunId, of: RunRequest, excluded: ReadonlySet<string>, until: AbortSignal) =>
        this.#planAgain(id, of, excluded, until),
      repairers: (excluded: ReadonlySet<string>, decode: WorkerId) => repairersIn(registry.state, excluded, decode),
      occupyPart: (part: Part) => this.#occupancy.occupyPart(part),
      secondsLeft: (part: Part) => secondsLeftOf(registry.state, part),
      offsetOf: (worker: string) => bestOffset(findWorker(registry.state, asWorkerId(worker))?.clock ?? []),
      precisionOf: (worker: string) => this.#precisionOf(worker),
      selfCheck: (plan: Plan) => ({
        checks: this.#drawChecks(plan),
        onChecked: (checked: Checked) => this.#of.selfCheck?.onChecked(checked),
      }),
      clock,
    }
    const run = asRunId((this.#of.newRunId ?? randomUUID)())
    const created = Math.floor(Date.now() / 1000)
    for await (const event of runRequest(run, request, deps, signal)) {
      if (event.kind === 'finished') {
        this.#measured(event.report)
        store.add({ created, report: event.report })
      }
      yield event
    }
  }

  #drawChecks(plan: Plan): BlockCheck[] {
    const { selfCheck } = this.#of
    if (selfCheck === undefined) return []
    return drawChecks(plan, selfCheck.rate, (worker) => this.#precisionOf(worker), selfCheck.random)
  }

  #precisionOf(worker: string): Precision {
    return findWorker(this.#of.registry.state, asWorkerId(worker))?.precision ?? 'f32'
  }

  plan(
    promptTokens: number,
    ask: PlanAsk & { maxTokens?: number; excluded?: ReadonlySet<string>; idle?: boolean; behind?: number } = {},
  ): Planned {
    const { registry, shape, narrowestWire } = this.#of
    const strategy = ask.strategy ?? this.#of.strategy
    const wanted: PlanAsk = {
      ...(strategy !== undefined && { strategy }),
      ...(ask.workers !== undefined && { workers: ask.workers }),
      ...(ask.shares !== undefined && { shares: ask.shares }),
      ...(ask.alone !== undefined && { alone: ask.alone }),
    }
    const { maxTokens, behind = 0 } = ask
    const { edgeSeconds, pace } = this.#forecast
    const most = maxTokens !== undefined && { maxTokens }
    const { excluded } = ask
    const without = excluded !== undefined && { excluded }
    const facts = { shape, promptTokens, narrowestWire, edgeSeconds, pace, behind, ...most, ...without }
    return planPrefill(planFacts(ask.idle ? idle(registry.state) : registry.state, facts), wanted)
  }

  /** Memory that other runs have will be free again, so that is waited for. */
  async #planNow(run: RunId, of: RunRequest, signal: AbortSignal): Promise<Occupied> {
    const { registry } = this.#of
    for (;;) {
      try {
        const found = resumption(of, registry.state, this.#forecast.edgeSeconds)
        return this.#occupancy.occupy(run, found ?? this.#planWithout(of, new Set()), of.maxTokens)
      } catch (thrown) {
        if (asHeadraceError(thrown).code !== 'plan_impossible' || !this.#occupancy.any) throw thrown
      }
      await this.#occupancy.changed(signal)
    }
  }

  /** Those that failed the run before get no more of it, unless there is nobody else. */
  #planWithout(of: RunRequest, excluded: ReadonlySet<string>): Plan {
    const { length } = of.promptTokens
    if (excluded.size === 0) return this.plan(length, { ...of, behind: this.#admission.waiting }).chosen
    const { maxTokens } = of
    // What a client insists on was meant for the cluster as it was: rather another split than none.
    for (const ask of [
      { ...of, excluded },
      { maxTokens, excluded, alone: true },
    ])
      try {
        return this.plan(length, ask).chosen
      } catch (thrown) {
        if (!(thrown instanceof HeadraceError)) throw thrown
      }
    return this.plan(length, { maxTokens, alone: true }).chosen
  }

  /** Workers come back, or others come: a run that was half computed is worth a wait. */
  async #planAgain(run: RunId, of: RunRequest, excluded: ReadonlySet<string>, signal: AbortSignal): Promise<Occupied> {
    const { clock } = this.#of
    // With so many the client began, but who failed is missing now.
    const { workers: _number, shares: _shares, ...any } = of
    const ended = new AbortController()
    const late = new AbortController()
    const patience = AbortSignal.any([signal, late.signal])
    let why: HeadraceError | undefined
    clock.sleep(REPLAN_SECONDS, ended.signal).then(
      () => late.abort(why),
      () => undefined, // ended in time
    )
    try {
      for (;;) {
        try {
          return this.#occupancy.occupy(run, this.#planWithout(any, excluded), of.maxTokens)
        } catch (thrown) {
          why = asHeadraceError(thrown)
          if (!WORTH_A_WAIT.has(why.code)) throw why
        }
        await this.#occupancy.changed(patience)
      }
    } finally {
      ended.abort()
    }
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

  /** A run that had to make up for something, or had nothing to compute, is no measure of anything. */
  #measured(report: RunReport): void {
    const { plan, workers } = report
    if (report.repairs.length > 0 || isResumed(plan)) return
    const { registry, shape } = this.#of
    const besideOthers = this.#admission.running > 1
    const hostOf = (worker: WorkerId): string | undefined => findWorker(registry.state, worker)?.host
    for (const event of measurementsOf({ plan, workers, shape, besideOthers, hostOf })) registry.apply(event)
    this.#forecast = forecastAfter(this.#forecast, report, besideOthers)
  }
}
