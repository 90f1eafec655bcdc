import type { ClusterView, LinkView, WorkerView } from '../runs/events.ts'
import { freeBytes } from './facts.ts'
import type { MeasuredLink } from './links.ts'
import type { ClusterState, LostWorker, Worker } from './state.ts'

/** `GET /v1/cluster`: the connected workers, then the lost ones. */
export const toClusterView = (state: ClusterState, now: number, runs: ClusterView['runs']): ClusterView => ({
  workers: [...state.workers, ...state.lost].map((worker) => toWorkerView(worker, now)),
  links: [...state.links.values()].map((link) => toLinkView(link, now)),
  runs,
})

const toLinkView = ({ from, to, bytesPerSecond, rttSeconds, measuredAt }: MeasuredLink, now: number): LinkView => ({
  from,
  to,
  bytesPerSecond,
  rttSeconds,
  ageSeconds: now - measuredAt,
})

const toWorkerView = (worker: Worker | LostWorker, now: number): WorkerView => ({
  id: worker.id,
  role: worker.role,
  state: worker.state,
  engine: worker.engine,
  host: worker.host,
  cores: worker.cores,
  threads: worker.threads,
  memoryBytes: worker.memoryBytes,
  budgetBytes: worker.budgetBytes,
  freeBytes: freeBytes(worker),
  ...(worker.cost === undefined ? {} : { cost: worker.cost }),
  ...(worker.sharedCost === undefined ? {} : { sharedCost: worker.sharedCost }),
  ...(worker.rttSeconds === undefined ? {} : { rttSeconds: worker.rttSeconds }),
  lastSeenSeconds: now - worker.lastSeen,
  runs: worker.runs.length,
})
