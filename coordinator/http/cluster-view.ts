import type { LinkView, WorkerView } from '../runs/events.ts'
import type { ServerDeps } from './deps.ts'

/** The cluster as `GET /v1/cluster` shows it, in the API's spelling. */
export function clusterView({ runs, model }: ServerDeps) {
  const { workers, links, runs: load } = runs.cluster()
  const unready = runs.unready()
  return {
    object: 'cluster',
    ready: unready === undefined,
    reason: unready === undefined ? null : { code: unready.code, message: unready.message },
    model: { id: model.name, fingerprint: model.fingerprint, max_model_len: model.contextLength },
    workers: workers.map(workerView),
    links: links.map(linkView),
    runs: { running: load.running, waiting: load.waiting },
  }
}

const workerView = (worker: WorkerView) => ({
  id: worker.id,
  role: worker.role,
  state: worker.state,
  ...(worker.modelShare === undefined ? {} : { model_share: worker.modelShare }),
  engine: worker.engine,
  precision: worker.precision ?? null,
  host: worker.host,
  cores: worker.cores,
  threads: worker.threads,
  memory_bytes: worker.memoryBytes,
  budget_bytes: worker.budgetBytes,
  free_bytes: worker.freeBytes,
  cost: worker.cost ?? null,
  shared_cost: worker.sharedCost ?? null,
  rtt_seconds: worker.rttSeconds ?? null,
  last_seen_seconds: worker.lastSeenSeconds,
  runs: worker.runs,
})

const linkView = (link: LinkView) => ({
  from: link.from,
  to: link.to,
  bytes_per_second: link.bytesPerSecond,
  rtt_seconds: link.rttSeconds,
  age_seconds: link.ageSeconds,
})
