/**
 * Workers of one host that run the same engine with as many threads are, as a rule, equally fast, and hosts are often of one
 * kind too. What was measured of each is off by chance all the same, and a chain waits for the one that was thought too fast.
 * So each cost is drawn towards the mean of its kind, the further the less their spread exceeds what chance alone gives (the
 * estimator of James and Stein, chance known): workers that truly differ keep what they were found to take.
 */
import type { Cost } from '../../shared/protocol/control.ts'
import { eachOf } from '../planning/cost.ts'
import type { PrefillWorker } from './state.ts'

/**
 * Standard deviation of one worker's measured cost from its true one, as a part of it. Of workers of different hosts less is
 * taken to be chance, since they may well differ.
 */
const CHANCE = 0.08
const CHANCE_BETWEEN_HOSTS = 0.06

/** The same workers in the same order. One that was never measured beside others takes the mean of those that were. */
export function pooledCosts(workers: readonly PrefillWorker[]): PrefillWorker[] {
  const pooled = pooledKinds(workers, ({ host, ...worker }) => [host, ...kindOf(worker)], CHANCE)
  const hosts = new Set(workers.map(({ host }) => host))
  return hosts.size < 2 ? pooled : pooledKinds(pooled, kindOf, CHANCE_BETWEEN_HOSTS)
}

type Kind = readonly (string | number)[]

const kindOf = ({ engine, threads, precision }: Pick<PrefillWorker, 'engine' | 'threads' | 'precision'>): Kind => [
  engine,
  threads,
  precision,
]

function pooledKinds(
  workers: readonly PrefillWorker[],
  kindBy: (worker: PrefillWorker) => Kind,
  chance: number,
): PrefillWorker[] {
  const kinds = new Map<string, PrefillWorker[]>()
  for (const worker of workers) {
    const kind = JSON.stringify(kindBy(worker))
    kinds.set(kind, [...(kinds.get(kind) ?? []), worker])
  }
  const pooled = new Map(
    [...kinds.values()].flatMap((kind) => pooledKind(kind, chance)).map((worker) => [worker.id, worker]),
  )
  return workers.map(({ id }) => pooled.get(id)!)
}

function pooledKind(workers: readonly PrefillWorker[], chance: number): PrefillWorker[] {
  const costs = drawnTogether(
    workers.map(({ cost }) => cost),
    chance,
  )
  const known = workers.filter(({ sharedCost }) => sharedCost !== undefined)
  const shared = drawnTogether(
    known.map(({ sharedCost }) => sharedCost!),
    chance,
  )
  const typical = known.length === 0 ? undefined : mean(shared)
  return workers.map((worker, i) => {
    const sharedCost = shared[known.indexOf(worker)] ?? typical
    return { ...worker, cost: costs[i]!, ...(sharedCost !== undefined && { sharedCost }) }
  })
}

/** Each coefficient on its own, as they are measured apart. */
function drawnTogether(costs: readonly Cost[], chance: number): Cost[] {
  if (costs.length < 2) return [...costs]
  const middle = mean(costs)
  const kept = eachOf(middle, (name, of) => {
    const variance = costs.reduce((sum, cost) => sum + ((cost[name] ?? 0) - of) ** 2, 0) / (costs.length - 1)
    return variance > 0 ? Math.max(0, 1 - (chance * of) ** 2 / variance) : 1
  })
  return costs.map((cost) => eachOf(cost, (name, own) => middle[name]! + kept[name]! * (own - middle[name]!)))
}

/** What is absent counts as 0, and stays absent where all lack it. */
const mean = (costs: readonly Cost[]): Cost =>
  eachOf(
    Object.assign({}, ...costs) as Cost,
    (name) => costs.reduce((sum, cost) => sum + (cost[name] ?? 0), 0) / costs.length,
  )
