import { Registry } from '../../coordinator/cluster/registry.ts'
import { createCoordinatorMetrics } from '../../coordinator/metrics.ts'
import type { Planned } from '../../coordinator/planning/plan-prefill.ts'
import { ClusterRuns, type ClusterRunsOptions } from '../../coordinator/runs/cluster-runs.ts'
import { heedChecks } from '../../coordinator/runs/self-check.ts'
import { RunStore } from '../../coordinator/trace/store.ts'
import { HeadraceError } from '../../shared/errors.ts'
import { BufferPool } from '../../shared/link/buffer-pool.ts'
import { CONTROL_LIMITS, DATA_LIMITS } from '../../shared/link/link.ts'
import type { Log } from '../../shared/log.ts'
import type { Plan } from '../../shared/plan.ts'
import { type Checked, PROTOCOL_VERSION } from '../../shared/protocol/control.ts'
import { Agent } from '../../worker/agent/agent.ts'
import type { ComputeHost } from '../../worker/compute/host.ts'
import { WorkerMetrics } from '../../worker/metrics.ts'
import { PeerDialling } from '../../worker/peers/dialling.ts'
import { PeerListening } from '../../worker/peers/listening.ts'
import type { DeliveredBlock } from '../../worker/prefill/exchange.ts'
import { TicketBook } from '../../worker/security/ticket-book.ts'
import { Chance } from './chance.ts'
import { History } from './history.ts'
import { Ledger } from './ledger.ts'
import { SimNetwork } from './network.ts'
import type { Options, WorkerOptions } from './options.ts'
import { SimProcess, Timeline } from './timeline.ts'
import { toyCompute } from './toy-compute.ts'
import { type ToyAnswer, ToyEngine, toyBlockIsTrue, toyShape } from './toy-model.ts'

/**
 * The product's control logic on simulated machines: registry, runs, agents, sessions and exchanges are the real ones,
 * every message passes the real codec; time, network and arithmetic are simulated.
 */

const FINGERPRINT = 'f'.repeat(64)
export const COORDINATOR = 'coordinator'
const COORDINATOR_URL = `sim://${COORDINATOR}/link`

// Metrics decide nothing, and making them takes longer than many a simulation.
const coordinatorMetrics = createCoordinatorMetrics({ version: 'simulation', model: 'toy' })
const workerMetrics = new WorkerMetrics({ version: 'simulation', role: 'prefill', engine: 'reference' })

/** How many KV blocks were refused so far, in all simulations, by reason. */
export async function blocksRefused(): Promise<ReadonlyMap<string, number>> {
  const { values } = await workerMetrics.blocksRefused.get()
  return new Map(values.map(({ labels, value }) => [String(labels.reason), value]))
}

/** Memory that is given back is filled with something else at once: who still reads it finds out. */
class PoisonedPool extends BufferPool {
  override take(length: number): Uint8Array {
    return new Uint8Array(length)
  }

  override give(frame: Uint8Array): void {
    frame.fill(0xa5)
  }
}

export interface CoordinatorLife {
  readonly process: SimProcess
  readonly registry: Registry
  readonly runs: ClusterRuns
  /** As the program ends on SIGTERM. */
  stop(): void
}

export interface WorkerLife {
  readonly of: WorkerOptions
  readonly process: SimProcess
  readonly agent: Agent
  readonly engine: ToyEngine
  readonly listening: PeerListening
  readonly host: ComputeHost
  leaving: boolean
  /** The layer of which it tells its neighbour something else than the decode node. */
  twoFacedIn: number | undefined
}

/** Small changes to the product, by a test that wants to see them found. */
export interface Planted {
  readonly Runs?: typeof SmallBlockRuns
  readonly meddle?: (block: DeliveredBlock) => DeliveredBlock
  /** How many blocks are checked where all should be. */
  readonly selfCheckRate?: number
}

export class World {
  readonly options: Options
  readonly timeline = new Timeline()
  readonly history: History
  readonly network: SimNetwork
  readonly workers = new Map<string, WorkerLife>()
  /** Of workers, by name: other processes that say that they are it. */
  readonly doubles = new Map<string, WorkerLife>()
  coordinator: CoordinatorLife | undefined
  /** No more faults, and no more than those that stay. */
  healed = false
  /** Broken invariants. */
  readonly violations: string[] = []
  /** Workers that are not to be started again. */
  readonly gone = new Set<string>()
  /** What each run has to give. */
  readonly answers = new Map<string, ToyAnswer>()
  readonly ledger: Ledger
  /** Told of what comes to clients. */
  onEvent: (event: 'planned' | 'progress' | 'token', plan: Plan) => void = () => undefined
  #lives = 0
  #runs = 0
  readonly #planted: Planted

  constructor(options: Options, planted: Planted = {}, explained = false) {
    this.options = options
    this.#planted = planted
    const { timeline } = this
    this.history = new History(() => timeline.now, explained)
    this.ledger = new Ledger(this.history, (what) => this.violated(what))
    const chance = new Chance(options.seed, 'network')
    const { delay, bytesPerSecond, unlike, sendBuffer, jitter } = options.network
    this.network = new SimNetwork({
      timeline,
      history: this.history,
      chance,
      path: () => ({
        delay: delay * chance.spread(1, unlike),
        bytesPerSecond: bytesPerSecond / chance.spread(1, unlike),
      }),
      sendBuffer,
      jitter,
    })
  }

  violated(what: string): void {
    this.history.note('VIOLATED', what)
    if (!this.violations.includes(what)) this.violations.push(what)
  }

  startCoordinator(): CoordinatorLife {
    const process = new SimProcess(this.timeline, COORDINATOR, 1000 * ++this.#lives)
    const { clock } = process
    const log = this.#log(COORDINATOR)
    const registry = new Registry({ fingerprint: FINGERPRINT, clock, metrics: coordinatorMetrics, log })
    const of: ClusterRunsOptions = {
      registry,
      shape: toyShape(this.options.layers),
      strategy: undefined,
      narrowestWire: 'f32',
      limits: this.options.queue,
      ...(this.options.selfCheck && { selfCheck: this.#selfCheck(registry, log) }),
      clock,
      store: new RunStore(),
      newRunId: () => `run-${++this.#runs}`,
    }
    const runs = new (this.#planted.Runs ?? SmallBlockRuns)(of, this.options.blockTokens)
    this.network.listen(COORDINATOR_URL, process, CONTROL_LIMITS, (link) => void registry.serve(link))
    const watch = new AbortController()
    void registry.keepWatch(watch.signal)
    const life: CoordinatorLife = {
      process,
      registry,
      runs,
      stop: () => {
        const reason = new HeadraceError('shutting_down', 'the coordinator is stopping')
        runs.close(reason)
        watch.abort(reason)
        registry.close()
      },
    }
    this.coordinator = life
    process.onEnd(() => {
      if (this.coordinator === life) this.coordinator = undefined
    })
    this.history.note('started', COORDINATOR)
    return life
  }

  startWorker(of: WorkerOptions): WorkerLife {
    const life = this.#start(of, of.name, of.name)
    this.workers.set(of.name, life)
    return life
  }

  /** A machine was cloned, or a unit file started twice. @param sameUrl it is reached where the first one was, until it ends */
  startDouble(of: WorkerOptions, sameUrl: boolean): void {
    const host = `${of.name}-again`
    this.doubles.set(of.name, this.#start(of, host, sameUrl ? of.name : host))
  }

  #start(of: WorkerOptions, machine: string, address: string): WorkerLife {
    const { name, role, tokenSeconds, budgetBytes } = of
    const process = new SimProcess(this.timeline, machine, of.clockOffset + 1000 * ++this.#lives)
    const { clock } = process
    const log = this.#log(machine)
    const url = `sim://${address}/link`
    const engine = this.#engine(of, process)
    const { compute, host } = toyCompute({
      engine,
      process,
      cost: { o: 1e-4, a: tokenSeconds, b: tokenSeconds / 200 },
      kvBudgetBytes: of.kvBudgetBytes,
      onBlock: (run, decodes, block) => {
        const answer = this.answers.get(run.split('.')[0]!)
        if (answer === undefined) return
        this.ledger.took(name, run, decodes, block, toyBlockIsTrue(answer, block))
      },
      onToken: (run) => this.ledger.answers(name, run),
      onLie: (run) => this.ledger.lied(name, run),
      twoFacedIn: () => life.twoFacedIn,
      violated: (what) => this.violated(`${name}: ${what}`),
      meddle: this.#planted.meddle,
    })
    const tickets = new TicketBook(name, clock)
    const listening = new PeerListening({ fingerprint: FINGERPRINT, tickets, clock, log, buffers: new BufferPool() })
    this.network.listen(url, process, DATA_LIMITS, (link) => void listening.serve(link))
    const buffers = new PoisonedPool()
    const plain = this.network.dialer(process, (length) => new Uint8Array(length))
    const dialer = this.network.dialer(process, (length) => buffers.take(length))
    const agent = new Agent({
      coordinatorUrl: COORDINATOR_URL,
      join: {
        kind: 'join',
        protocol: PROTOCOL_VERSION,
        name,
        role,
        fingerprint: FINGERPRINT,
        engine: 'reference',
        precision: 'f32',
        url,
        host: machine,
        cores: 1,
        threads: 1,
        memoryBytes: 0,
        budgetBytes,
      },
      dialer: this.options.measuresLinks ? plain : { dial: (...to) => this.#dialCoordinator(plain, ...to) },
      random: new Chance(this.options.seed + this.#lives, name).next,
      clock,
      log,
      tickets,
      session: {
        worker: name,
        fingerprint: FINGERPRINT,
        compute,
        dialling: new PeerDialling({ dialer, worker: name, fingerprint: FINGERPRINT, log }),
        listening,
        metrics: workerMetrics,
        buffers,
        clock,
        log,
      },
      residentBytes: () => 0,
      collectGarbage: () => undefined,
    })
    const life: WorkerLife = {
      of,
      process,
      agent,
      engine,
      listening,
      host,
      leaving: false,
      twoFacedIn: undefined,
    }
    this.history.note('started', machine)
    agent.serve().then(
      () => this.#exited(life, 'left'),
      (error: unknown) => this.#exited(life, error instanceof HeadraceError ? error.code : String(error)),
    )
    return life
  }

  /** Processes that live under one name. */
  livesOf(name: string): readonly WorkerLife[] {
    return [this.workers.get(name), this.doubles.get(name)].flatMap((life) => (life?.process.alive ? [life] : []))
  }

  #othersOf(life: WorkerLife): readonly WorkerLife[] {
    return this.livesOf(life.of.name).filter((other) => other !== life)
  }

  #selfCheck(registry: Registry, log: Log): NonNullable<ClusterRunsOptions['selfCheck']> {
    const apply = registry.apply.bind(registry)
    const heed = heedChecks({ layers: this.options.layers, apply, metrics: coordinatorMetrics, log })
    const onChecked = (checked: Checked): void => {
      heed(checked)
      this.history.saw('a block was checked')
      if (checked.wrong !== undefined) this.ledger.blamed(checked)
    }
    return { rate: this.#planted.selfCheckRate ?? 1, random: new Chance(this.options.seed, 'checks').next, onChecked }
  }

  #engine(of: WorkerOptions, process: SimProcess): ToyEngine {
    const { layers, chunkTokens } = this.options
    const speed = { token: of.tokenSeconds, pair: of.tokenSeconds / 200 }
    return new ToyEngine(layers, chunkTokens, speed, (seconds) => process.compute(seconds))
  }

  /** The process ends itself, and whoever looks after it starts it again. */
  #exited(life: WorkerLife, why: string): void {
    const { name } = life.of
    this.history.note('exited', life.process.host, why)
    this.history.saw(`a worker went: ${why}`)
    life.process.kill()
    // Who looks after it may see that another one has its name.
    if (why === 'name_taken' && this.#othersOf(life).length > 0) this.gone.add(name)
    this.timeline.after(1, () => {
      if (!this.gone.has(name) && this.workers.get(name) === life) this.startWorker(life.of)
    })
  }

  #dialCoordinator(
    dialer: ReturnType<SimNetwork['dialer']>,
    ...[url, limits, signal]: Parameters<ReturnType<SimNetwork['dialer']>['dial']>
  ): ReturnType<ReturnType<SimNetwork['dialer']>['dial']> {
    if (url === COORDINATOR_URL) return dialer.dial(url, limits, signal)
    return Promise.reject(new HeadraceError('dial_failed', 'links are not measured in this simulation'))
  }

  #log(host: string): Log {
    const note = (of: { code?: string; err?: unknown }, text?: string): void => {
      this.history.note('log', host, of.code ?? '', text ?? '')
      if (of.code !== undefined) this.history.saw(`logged ${of.code}`)
    }
    const log = { debug: () => undefined, info: note, warn: note, error: note }
    return log as unknown as Log
  }
}

/** The product's runs, in smaller blocks. */
export class SmallBlockRuns extends ClusterRuns {
  readonly #blockTokens: number

  constructor(of: ClusterRunsOptions, blockTokens: number) {
    super(of)
    this.#blockTokens = blockTokens
  }

  override plan(...of: Parameters<ClusterRuns['plan']>): Planned {
    const { chosen, candidates } = super.plan(...of)
    return { chosen: { ...chosen, blockTokens: this.#blockTokens }, candidates }
  }
}
