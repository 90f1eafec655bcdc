import type { CoordinatorMetrics } from './metrics.ts'
import { tokensPerSecond } from './planning/cost.ts'
import type { LinkView, Runs, WorkerView } from './runs/events.ts'

/** Sets the gauges from the cluster as it is now, at each scrape: nothing to keep in step, nothing left of who is gone. */
export function observeCluster(metrics: CoordinatorMetrics, runs: Runs, layers: number): void {
  const { workers, links, runs: load } = runs.cluster()
  metrics.ready.set(runs.unready() === undefined ? 1 : 0)
  metrics.running.set(load.running)
  metrics.waiting.set(load.waiting)
  metrics.quarantined.set(workers.filter(({ state }) => state === 'quarantined').length)

  const { workerSpeed, workerMemory, workerLastSeen, linkRtt, linkRate } = metrics
  for (const gauge of [workerSpeed, workerMemory, workerLastSeen, linkRtt, linkRate]) gauge.reset()
  zeroWorkers(metrics)
  for (const view of workers) {
    const worker = { worker: view.id }
    metrics.workers.inc({ role: view.role, state: view.state })
    workerMemory.set({ ...worker, kind: 'offered' }, view.memoryBytes)
    workerLastSeen.set(worker, Date.now() / 1000 - view.lastSeenSeconds)
    if (view.rttSeconds !== undefined) linkRtt.set({ ...worker, peer: 'coordinator' }, view.rttSeconds)
    if (view.cost !== undefined) workerSpeed.set(worker, tokensPerSecond(view.cost, layers))
  }
  observeLinks(metrics, links)
}

/** There is a link for each pair of workers: of a large cluster, more than anybody wants to scrape. */
const MAX_LINKS = 1024

function observeLinks({ linkRtt, linkRate }: CoordinatorMetrics, links: readonly LinkView[]): void {
  for (const { from, to, rttSeconds, bytesPerSecond } of links.slice(0, MAX_LINKS)) {
    const link = { worker: from, peer: to }
    linkRtt.set(link, rttSeconds)
    linkRate.set(link, bytesPerSecond)
  }
}

/** Also of roles and states that no worker is in. */
function zeroWorkers({ workers }: CoordinatorMetrics): void {
  for (const role of ROLES) for (const state of STATES) workers.set({ role, state }, 0)
}

const ROLES: readonly WorkerView['role'][] = ['prefill', 'decode']
const STATES: readonly WorkerView['state'][] = ['downloading', 'joining', 'ready', 'leaving', 'quarantined', 'lost']
