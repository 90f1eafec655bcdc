import { Registry } from '../../coordinator/cluster/registry.ts'
import { readyDecode, readyPrefill } from '../../coordinator/cluster/state.ts'
import { type CoordinatorMetrics, createCoordinatorMetrics } from '../../coordinator/metrics.ts'
import type { Planned } from '../../coordinator/planning/plan-prefill.ts'
import { ClusterRuns, type ClusterRunsOptions } from '../../coordinator/runs/cluster-runs.ts'
import type { QueueLimits } from '../../coordinator/runs/queue.ts'
import { heedChecks } from '../../coordinator/runs/self-check.ts'
import { RunStore } from '../../coordinator/trace/store.ts'
import type { Clock } from '../../shared/clock.ts'
import { HeadraceError } from '../../shared/errors.ts'
import { BufferPool } from '../../shared/link/buffer-pool.ts'
import { CONTROL_LIMITS, DATA_LIMITS, type Dialer, type Link } from '../../shared/link/link.ts'
import { realClock } from '../../shared/link/real-clock.ts'
import { createLog } from '../../shared/log.ts'
import type { Plan, Span } from '../../shared/plan.ts'
import { type Cost, PROTOCOL_VERSION, type Role } from '../../shared/protocol/control.ts'
import { Agent } from '../../worker/agent/agent.ts'
import type { Compute } from '../../worker/compute/compute.ts'
import type { ComputeEvent } from '../../worker/compute/messages.ts'
import { createEngine } from '../../worker/engine/create-engine.ts'
import type { Engine } from '../../worker/engine/engine.ts'
import { WorkerMetrics } from '../../worker/metrics.ts'
import { PeerDialling } from '../../worker/peers/dialling.ts'
import { PeerListening } from '../../worker/peers/listening.ts'
import { TicketBook } from '../../worker/security/ticket-book.ts'
import { inlineCompute } from './inline-compute.ts'
import { MemoryNetwork } from './memory-link.ts'
import { seededRandom } from './random.ts'

/**
 * A whole cluster in one process: the product's registry, runs, agents, sessions and exchanges over links in memory, and
 * the reference engine on this event loop. Only sockets and threads are left out.
 */

export const FINGERPRINT = 'f'.repeat(64)
const COORDINATOR = 'memory://coordinator'
const log = createLog('test', 'silent')

export interface MemoryWorkerOptions {
  readonly name: string
  readonly role: Role
  readonly cost?: Cost
  readonly fingerprint?: string
  readonly protocol?: number
  /** Where its KV is fetched, if not at its name. */
  readonly url?: string
  readonly host?: string
  readonly meddle?: (event: ComputeEvent) => ComputeEvent
  /** What it computes with instead. */
  readonly instead?: (engine: Engine) => Engine
  /** What it says it has for runs, and what its decode node then really gives. Default: more than any test takes. */
  readonly budgetBytes?: number
  readonly kvBudgetBytes?: number
}

export interface MemoryWorker {
  readonly agent: Agent
  readonly compute: Compute
  /** All its links break at once, and nothing more is heard of it. */
  kill(): void
  readonly metrics: WorkerMetrics
  /** How `serve` ended. */
  readonly served: Promise<void>
}

export class MemoryCluster {
  readonly network = new MemoryNetwork()
  readonly registry: Registry
  readonly runs: ClusterRuns
  readonly #metrics: CoordinatorMetrics
  readonly workers = new Map<string, MemoryWorker>()
  readonly #folder: string

  private constructor(folder: string, registry: Registry, runs: ClusterRuns, metrics: CoordinatorMetrics) {
    this.#metrics = metrics
    this.#folder = folder
    this.registry = registry
    this.runs = runs
    this.network.register(COORDINATOR, CONTROL_LIMITS, (link) => void registry.serve(link))
  }

  static async start(
    folder: string,
    of: {
      workers: readonly MemoryWorkerOptions[]
      limits?: QueueLimits
      clock?: Clock
      /** Share of KV blocks that are computed again. */
      selfCheck?: number
      replan?: (plan: Plan) => Plan
    },
  ): Promise<MemoryCluster> {
    const engine = await createEngine('reference', folder, { threads: 1 })
    const metrics = createCoordinatorMetrics({ version: 'test', model: 'tiny' })
    const registry = new Registry({ fingerprint: FINGERPRINT, clock: of.clock ?? realClock, metrics, log })
    const runs = new ReplannedRuns(
      {
        registry,
        shape: engine.shape,
        strategy: undefined,
        narrowestWire: 'f32',
        clock: realClock,
        store: new RunStore(),
        ...(of.limits && { limits: of.limits }),
        selfCheck: {
          rate: of.selfCheck ?? 0,
          random: seededRandom(5),
          onChecked: heedChecks({ layers: engine.shape.layers, apply: (event) => registry.apply(event), metrics, log }),
        },
      },
      of.replan ?? ((plan) => plan),
    )
    const cluster = new MemoryCluster(folder, registry, runs, metrics)
    for (const worker of of.workers) await cluster.add(worker)
    await cluster.until(
      () => readyPrefill(registry.state).length + readyDecode(registry.state).length === of.workers.length,
    )
    return cluster
  }

  async add(of: MemoryWorkerOptions): Promise<MemoryWorker> {
    const honest = await createEngine('reference', this.#folder, { threads: 1 })
    const engine = of.instead?.(honest) ?? honest
    const cost = of.cost ?? { o: 1e-4, a: 1e-5, b: 1e-8 }
    const fingerprint = of.fingerprint ?? FINGERPRINT
    const metrics = new WorkerMetrics({ version: 'test', role: of.role, engine: 'reference' })
    const tickets = new TicketBook(of.name, realClock)
    const listening = new PeerListening({ fingerprint, tickets, clock: realClock, log, buffers: new BufferPool() })
    const url = of.url ?? `memory://${of.name}`
    const links = new Set<Link>()
    const kept = (link: Link): Link => {
      links.add(link)
      return link
    }
    this.network.register(url, DATA_LIMITS, (link) => void listening.serve(kept(link)))
    const dialer: Dialer = {
      dial: async (to, limits, signal) => kept(await this.network.dial(to, limits, signal)),
    }
    const compute = inlineCompute(engine, cost, of.meddle, of.kvBudgetBytes)
    const agent = new Agent({
      coordinatorUrl: COORDINATOR,
      join: {
        kind: 'join',
        protocol: of.protocol ?? PROTOCOL_VERSION,
        name: of.name,
        role: of.role,
        fingerprint,
        engine: 'reference',
        precision: 'f32',
        url,
        host: of.host ?? 'memory',
        cores: 1,
        threads: 1,
        memoryBytes: 0,
        budgetBytes: of.budgetBytes ?? 2 ** 40,
      },
      dialer,
      random: seededRandom(1),
      clock: realClock,
      log,
      tickets,
      session: {
        worker: of.name,
        fingerprint,
        compute,
        dialling: new PeerDialling({ dialer, worker: of.name, fingerprint, log }),
        listening,
        metrics,
        buffers: new BufferPool(),
        clock: realClock,
        log,
      },
      residentBytes: () => 0,
      collectGarbage: () => undefined,
    })
    const kill = (): void => {
      for (const link of links) link.close(new HeadraceError('link_closed', 'killed'))
      void agent.leave(0)
    }
    const worker = { agent, compute, metrics, kill, served: agent.serve() }
    worker.served.catch(() => undefined) // tests that care await it
    this.workers.set(of.name, worker)
    return worker
  }

  /** Resolves once a worker has been refused with this code. */
  async refused(code: string): Promise<void> {
    for (;;) {
      const { values } = await this.#metrics.joinsRefused.get()
      if (values.some(({ labels, value }) => labels.code === code && value > 0)) return
      await new Promise((resolve) => setImmediate(resolve))
    }
  }

  /** What a counter of the coordinator says, by its name without the prefix. */
  async counted(name: string, labels: Readonly<Record<string, string>>): Promise<number> {
    const { values } = (await this.#metrics.registry.getSingleMetric(`headrace_${name}`)?.get()) ?? { values: [] }
    const wanted = Object.entries(labels)
    return values
      .filter((value) => wanted.every(([label, is]) => value.labels[label] === is))
      .reduce((sum, { value }) => sum + value, 0)
  }

  /** Turns the event loop until `condition` holds. The runner's own time limit ends a test in which it never does. */
  async until(condition: () => boolean): Promise<void> {
    while (!condition()) await new Promise((resolve) => setImmediate(resolve))
  }

  async stop(): Promise<void> {
    await Promise.all([...this.workers.values()].map(({ agent }) => agent.leave(0)))
    await Promise.all([...this.workers.values()].map(({ compute }) => compute.close()))
    this.registry.close()
  }
}

/** Lets a test change what the planner has chosen. */
class ReplannedRuns extends ClusterRuns {
  readonly #replan: (plan: Plan) => Plan

  constructor(of: ClusterRunsOptions, replan: (plan: Plan) => Plan) {
    super(of)
    this.#replan = replan
  }

  override plan(promptTokens: number, ask?: Parameters<ClusterRuns['plan']>[1]): Planned {
    const { chosen, candidates } = super.plan(promptTokens, ask)
    return { chosen: this.#replan(chosen), candidates }
  }
}

/** The same plan with the last `tokens` of the prompt, or all of them, at the decode node. */
export function withDecodeShare(plan: Plan, tokens: number): Plan {
  const prefillTokens = Math.max(0, plan.promptTokens - tokens)
  const cut = (spans: readonly Span[]): Span[] =>
    spans
      .map(({ start, end }) => ({
        start,
        end: end === plan.prefillTokens ? prefillTokens : Math.min(end, prefillTokens),
      }))
      .filter(({ start, end }) => end > start)
  const workers = plan.workers.map((worker) => ({ ...worker, spans: cut(worker.spans) }))
  return { ...plan, prefillTokens, workers: workers.filter(({ spans }) => spans.length > 0) }
}

/** `count` prefill workers of equal speed and a decode node. */
export const equalWorkers = (count: number): MemoryWorkerOptions[] => [
  ...Array.from({ length: count }, (_, i): MemoryWorkerOptions => ({ name: `w${i + 1}`, role: 'prefill' })),
  { name: 'd1', role: 'decode' },
]
