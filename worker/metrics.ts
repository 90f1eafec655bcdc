import { Counter, collectDefaultMetrics, Gauge, Histogram, Registry } from 'prom-client'
import { REFUSALS } from '../shared/link/connection-cap.ts'
import type { Role } from '../shared/protocol/control.ts'
import type { WorkerReport } from '../shared/protocol/run-types.ts'

/** Every series of a worker process. Base units, bounded labels, all of them present from the start. */
export class WorkerMetrics {
  readonly registry = new Registry()

  readonly #buildInfo = this.#gauge('build_info', 'Always 1; the labels say what runs', ['version', 'role', 'engine'])
  readonly connected = this.#gauge('worker_connected', 'Whether the coordinator has accepted this worker (0 or 1)')
  readonly joins = this.#counter('worker_joins_total', 'Times the coordinator accepted this worker')
  readonly dials = this.#counter('worker_dials_total', 'Attempts to reach the coordinator', ['result'])
  readonly runs = this.#counter('worker_runs_total', 'Runs this worker had a part in', ['status'])
  readonly runsActive = this.#gauge('worker_runs_running', 'Runs this worker has a part in now')
  readonly tokens = this.#counter('worker_tokens_total', 'Tokens computed (prefill) or sampled (decode)')
  readonly #phase = this.#counter('worker_phase_seconds_total', 'Where the time of runs went', ['phase'])
  readonly #wait = this.#histogram('kv_wait_seconds', 'A run of a prefill worker stood still: KV had not arrived')
  readonly #handoff = this.#histogram('kv_handoff_seconds', 'From the assignment to the complete cache (decode node)')
  readonly #linkBytes = this.#counter('link_bytes_total', 'Bytes of KV frames', ['direction', 'peer'])
  readonly linkBytes = boundedPeers(this.#linkBytes)
  readonly checksumErrors = this.#counter('kv_checksum_errors_total', 'KV blocks whose bytes were damaged')
  readonly blocksRefused = this.#counter('kv_blocks_refused_total', 'KV blocks that were dropped', ['reason'])
  readonly connectionsRefused = this.#counter('connections_refused_total', 'Connections and links sent away', [
    'reason',
  ])
  readonly ticketsRefused = this.#counter('tickets_refused_total', 'Subscriptions without a ticket that holds')
  readonly handoffFailures = this.#counter('kv_handoff_failures_total', 'Hand-offs that broke off', ['reason'])
  readonly weightsBytes = this.#counter('weights_transfer_bytes_total', 'Bytes of the model fetched', ['source'])
  readonly weightsRefusals = this.#counter('weights_refusals_total', 'Pieces of the model that did not come', [
    'reason',
  ])
  readonly weightsReady = this.#gauge('weights_ready', 'How much of the model is on this machine (0 to 1)')
  readonly weightsSentBytes = this.#counter('weights_sent_bytes_total', 'Bytes of the model given to other workers')
  readonly memory = this.#gauge('worker_memory_bytes', 'Memory of this process', ['kind'])

  constructor(of: { version: string; role: Role; engine: string }) {
    collectDefaultMetrics({ register: this.registry })
    this.#buildInfo.set(of, 1)
    for (const status of ['finished', 'failed', 'cancelled']) this.runs.inc({ status }, 0)
    for (const phase of ['compute', 'wait', 'send']) this.#phase.inc({ phase }, 0)
    for (const direction of ['sent', 'received']) this.#linkBytes.inc({ direction, peer: '' }, 0)
    for (const source of ['coordinator', 'worker']) this.weightsBytes.inc({ source }, 0)
    for (const reason of ['lied', 'missing', 'failed']) this.weightsRefusals.inc({ reason }, 0)
    for (const reason of REFUSALS) this.connectionsRefused.inc({ reason }, 0)
    for (const result of ['ok', 'failed']) this.dials.inc({ result }, 0)
    for (const reason of ['kv_checksum', 'stale_epoch']) this.blocksRefused.inc({ reason }, 0)
    for (const reason of ['link_closed', 'dial_failed', 'kv_identity', 'kv_shape', 'kv_checksum'])
      this.handoffFailures.inc({ reason }, 0)
  }

  /** A session's totals, once it has finished. */
  observe(of: WorkerReport): void {
    this.tokens.inc(of.tokens)
    this.#phase.inc({ phase: 'compute' }, of.computeSeconds)
    this.#phase.inc({ phase: 'wait' }, of.waitSeconds)
    this.#phase.inc({ phase: 'send' }, of.sendSeconds)
    const wait = of.role === 'decode' ? this.#handoff : this.#wait
    wait.observe(of.waitSeconds)
    for (const { to, bytes } of of.sent) this.linkBytes.inc({ direction: 'sent', peer: to }, bytes)
  }

  async text(): Promise<string> {
    const { rss, external, heapUsed } = process.memoryUsage()
    this.memory.set({ kind: 'resident' }, rss)
    this.memory.set({ kind: 'external' }, external)
    this.memory.set({ kind: 'heap' }, heapUsed)
    return this.registry.metrics()
  }

  #counter<L extends string>(name: string, help: string, labelNames: L[] = []): Counter<L> {
    return new Counter({ name: `headrace_${name}`, help, labelNames, registers: [this.registry] })
  }

  #histogram(name: string, help: string): Histogram {
    const buckets = [0.001, 0.01, 0.05, 0.1, 0.5, 1, 5, 10, 30, 60, 120, 480, 1920, 7680]
    return new Histogram({ name: `headrace_${name}`, help, buckets, registers: [this.registry] })
  }

  #gauge<L extends string>(name: string, help: string, labelNames: L[] = []): Gauge<L> {
    return new Gauge({ name: `headrace_${name}`, help, labelNames, registers: [this.registry] })
  }
}

/** Peers that come and go under new names must not add series without end: from here on they share one. */
const MAX_PEERS = 256

function boundedPeers(counter: Counter<'direction' | 'peer'>) {
  const known = new Set<string>()
  return {
    inc({ direction, peer }: { direction: string; peer: string }, bytes: number): void {
      if (known.size < MAX_PEERS) known.add(peer)
      counter.inc({ direction, peer: known.has(peer) ? peer : 'other' }, bytes)
    },
  }
}
