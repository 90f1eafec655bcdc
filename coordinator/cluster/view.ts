import type { ClusterView, LinkView, WorkerView } from '../runs/events.ts'
import { freeBytes } from './facts.ts'
import type { MeasuredLink } from './links.ts'
import type { ClusterState, FetchingWorker, LostWorker, Worker, WorkerPlace } from './state.ts'

/** `GET /v1/cluster`: the connected workers, those whose model is on its way, then the lost ones. */
export const toClusterView = (state: ClusterState, now: number, runs: ClusterView['runs']): ClusterView => ({
  workers: [
    ...state.workers.map((worker) => toWorkerView(worker, now)),
    ...state.fetching.map((worker) => toFetchingView(worker, now)),
    ...state.lost.map((worker) => toWorkerView(worker, now)),
  ],
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

const toPlaceView = ({ id, role, engine, host, cores, threads, memoryBytes, budgetBytes }: WorkerPlace) => ({
  id,
  role,
  engine,
  host,
  cores,
  threads,
  memoryBytes,
  budgetBytes,
})

const toFetchingView = (worker: FetchingWorker, now: number): WorkerView => ({
  ...toPlaceView(worker),
  state: 'downloading',
  modelShare: worker.have.length === 0 ? 1 : worker.have.count / worker.have.length,
  freeBytes: worker.budgetBytes,
  lastSeenSeconds: now - worker.lastSeen,
  runs: 0,
})

const toWorkerView = (worker: Worker | LostWorker, now: number): WorkerView => ({
  ...toPlaceView(worker),
  state: worker.state,
  precision: worker.precision,
  freeBytes: freeBytes(worker),
  ...(worker.cost === undefined ? {} : { cost: worker.cost }),
  ...(worker.sharedCost === undefined ? {} : { sharedCost: worker.sharedCost }),
  ...(worker.rttSeconds === undefined ? {} : { rttSeconds: worker.rttSeconds }),
  lastSeenSeconds: now - worker.lastSeen,
  runs: worker.runs.length,
})
