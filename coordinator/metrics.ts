import { Counter, collectDefaultMetrics, Gauge, Histogram, Registry } from 'prom-client'
import { REFUSALS } from '../shared/link/connection-cap.ts'
import { BOUNDS, STRATEGIES } from '../shared/plan.ts'

/**
 * Every series of a coordinator process. Base units, bounded labels (never a run, an address or a prompt), and all
 * series whose labels are known beforehand present from the start: a missing series means a fault, not "not yet".
 */

const RUN_STATUSES = ['finished', 'cancelled', 'refused', 'failed'] as const
export type RunStatus = (typeof RUN_STATUSES)[number]

/** `none`: a run that ended before it had a plan. */
const RUN_STRATEGIES = [...STRATEGIES, 'none'] as const

/** Where the time of a run goes. Of compute, wait and send it is the slowest worker's. */
const PHASES = ['tokenize', 'queue', 'compute', 'wait', 'send', 'decode'] as const

/** Why a plan has its strategy: the client asked for it, or what limits the best plan found. */
const DECISIONS = ['asked', ...BOUNDS] as const

/** Why a worker's link ended: it said so, the socket broke, nothing was heard for too long, or it spoke nonsense. */
export const DISCONNECT_REASONS = ['leaving', 'link_closed', 'silent', 'protocol'] as const
const JOIN_REFUSALS = ['fingerprint_mismatch', 'precision_mismatch', 'protocol_mismatch', 'name_taken'] as const
/** Of who has a token or a certificate that does not hold; any code of an error may be one. */
const CERTIFICATE_REFUSALS = ['token_refused', 'join_throttled', 'certificate_refused', 'identity_revoked'] as const

/** The commonest; any code of an error may be one. */
const REPAIR_REASONS = ['worker_lost', 'worker_failed', 'kv_checksum'] as const

/** vLLM's, so that dashboards compare. */
const FIRST_TOKEN_BUCKETS = [
  0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1, 2.5, 5, 7.5, 10, 20, 40, 80, 160, 640, 2560,
]
/** Up to the hours that a very long prompt takes on small machines. */
const PREFILL_BUCKETS = [
  0.01, 0.05, 0.1, 0.3, 0.5, 0.8, 1, 1.5, 2, 2.5, 5, 10, 15, 20, 30, 40, 50, 60, 120, 240, 480, 960, 1920, 7680,
]
const DURATION_BUCKETS = [0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 480, 1920, 7680]
const IMBALANCE_BUCKETS = [1, 1.02, 1.05, 1.1, 1.2, 1.3, 1.5, 2, 3, 5, 10]
const ERROR_BUCKETS = [0.01, 0.02, 0.05, 0.1, 0.15, 0.2, 0.3, 0.5, 1, 2, 5]

export type CoordinatorMetrics = ReturnType<typeof createCoordinatorMetrics>

export function createCoordinatorMetrics(build: { version: string; model: string }) {
  const registry = new Registry()
  collectDefaultMetrics({ register: registry })
  const make = makers(registry)
  const metrics = { registry, ...clusterSeries(make), ...runSeries(make), ...httpSeries(make) }
  make
    .gauge('build_info', 'Always 1; the labels say what runs', ['version', 'node', 'model'])
    .set({ version: build.version, node: process.version, model: build.model }, 1)
  return metrics
}

type Makers = ReturnType<typeof makers>

function makers(registry: Registry) {
  const named = (name: string, help: string) => ({ name: `headrace_${name}`, help, registers: [registry] })
  return {
    counter: <L extends string = never>(name: string, help: string, labelNames: L[] = []) =>
      new Counter<L>({ ...named(name, help), labelNames }),
    gauge: <L extends string = never>(name: string, help: string, labelNames: L[] = []) =>
      new Gauge<L>({ ...named(name, help), labelNames }),
    histogram: <L extends string = never>(name: string, help: string, buckets: number[], labelNames: L[] = []) =>
      new Histogram<L>({ ...named(name, help), buckets, labelNames }),
  }
}

/** The gauges are filled from the cluster's own view when they are scraped; the counters by who sees the event. */
function clusterSeries({ counter, gauge }: Makers) {
  const series = {
    ready: gauge('cluster_ready', 'Whether a prompt sent now would be computed (0 or 1)'),
    workers: gauge('workers', 'Workers by role and state', ['role', 'state']),
    quarantined: gauge('quarantined_workers', 'Connected workers that a self-check has found to lie or miscompute'),
    workerSpeed: gauge('worker_speed_tokens_per_second', 'Fitted speed for a prompt of 512 tokens', ['worker']),
    workerMemory: gauge('worker_memory_bytes', 'Memory of the worker', ['worker', 'kind']),
    workerLastSeen: gauge('worker_last_seen_timestamp_seconds', 'When the worker was last heard of', ['worker']),
    linkRtt: gauge('link_rtt_seconds', 'Round trip to the coordinator, and between workers', ['worker', 'peer']),
    linkRate: gauge('link_bytes_per_second', 'Measured rate of KV from a worker to a peer', ['worker', 'peer']),
    disconnects: counter('worker_disconnects_total', 'Links to workers that ended', ['reason']),
    selfChecks: counter('self_checks_total', 'KV blocks that were computed again', ['result']),
    weightsSentBytes: counter('weights_sent_bytes_total', 'Bytes of the model given to workers'),
    joinsRefused: counter('joins_refused_total', 'Workers that were not let in', ['code']),
    connectionsRefused: counter('connections_refused_total', 'Connections and links that were sent away', ['reason']),
  }
  for (const reason of REFUSALS) series.connectionsRefused.inc({ reason }, 0)
  for (const reason of DISCONNECT_REASONS) series.disconnects.inc({ reason }, 0)
  for (const result of ['passed', 'failed']) series.selfChecks.inc({ result }, 0)
  for (const code of [...JOIN_REFUSALS, ...CERTIFICATE_REFUSALS]) series.joinsRefused.inc({ code }, 0)
  return series
}

function runSeries({ counter, gauge, histogram }: Makers) {
  const series = {
    requests: counter('requests_total', 'Runs by how they ended', ['status', 'strategy']),
    running: gauge('requests_running', 'Runs being computed'),
    waiting: gauge('requests_waiting', 'Runs in the queue'),
    promptTokens: counter('prompt_tokens_total', 'Prompt tokens of prefilled runs', ['source']),
    generationTokens: counter('generation_tokens_total', 'Tokens generated'),
    ttft: histogram('time_to_first_token_seconds', 'From arrival to the first token', FIRST_TOKEN_BUCKETS),
    prefill: histogram('prefill_seconds', 'From the plan to the first token', PREFILL_BUCKETS, ['strategy']),
    queue: histogram('queue_seconds', 'Waited for admission', FIRST_TOKEN_BUCKETS),
    phase: histogram('phase_seconds', 'Where the time of a run went', DURATION_BUCKETS, ['phase']),
    imbalance: histogram('prefill_imbalance_ratio', 'Slowest worker over the mean', IMBALANCE_BUCKETS),
    decisions: counter('split_decisions_total', 'Plans by strategy and why', ['strategy', 'reason']),
    predictionError: histogram('predicted_ttft_error_ratio', '|predicted - measured| / measured', ERROR_BUCKETS),
    linkBytes: counter('link_bytes_total', 'KV bytes between workers', ['worker', 'peer', 'direction']),
    repairs: counter('run_repairs_total', 'Parts of runs that others had to make up for', ['reason']),
    repairedTokens: counter('run_repaired_tokens_total', 'Prompt tokens of these parts'),
    failovers: counter('run_failovers_total', 'Runs that went on at another decode node', ['reason']),
  }
  for (const reason of REPAIR_REASONS) series.repairs.inc({ reason }, 0)
  for (const reason of REPAIR_REASONS) series.failovers.inc({ reason }, 0)
  for (const strategy of RUN_STRATEGIES) for (const status of RUN_STATUSES) series.requests.inc({ status, strategy }, 0)
  for (const source of ['computed', 'cached']) series.promptTokens.inc({ source }, 0)
  for (const strategy of STRATEGIES) series.prefill.zero({ strategy })
  for (const phase of PHASES) series.phase.zero({ phase })
  for (const strategy of STRATEGIES) for (const reason of DECISIONS) series.decisions.inc({ strategy, reason }, 0)
  return series
}

/** What became of a request with an `Idempotency-Key`: it began a run, listened to one, or got an answer again. */
const IDEMPOTENT_OUTCOMES = ['begun', 'attached', 'replayed'] as const

/** Routes are registered by the server, which zeroes their series as it adds them. */
function httpSeries({ counter, histogram }: Makers) {
  const idempotent = counter('idempotent_requests_total', 'Requests with an Idempotency-Key', ['outcome'])
  for (const outcome of IDEMPOTENT_OUTCOMES) idempotent.inc({ outcome }, 0)
  return {
    idempotent,
    httpRequests: counter('http_requests_total', 'Requests answered', ['route', 'method', 'status']),
    httpSeconds: histogram('http_request_seconds', 'From the request line to the last byte', DURATION_BUCKETS, [
      'route',
    ]),
  }
}
