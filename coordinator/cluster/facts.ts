import { asWorkerId, type WorkerId } from '../../shared/ids.ts'
import type { ModelShape } from '../../shared/model-shape.ts'
import type { Wire } from '../../shared/plan.ts'
import type { Cost } from '../../shared/protocol/control.ts'
import { layerSeconds, slowedCost } from '../planning/cost.ts'
import type { DecodeFacts, Pace, PlanFacts, PrefillFacts } from '../planning/facts.ts'
import type { Repairer } from '../planning/repair.ts'
import type { Part } from '../runs/parts.ts'
import { pooledCosts } from './alike.ts'
import { besideOthers } from './cost-correction.ts'
import { type ClusterState, findWorker, type PrefillWorker, readyDecode, readyPrefill, type Worker } from './state.ts'

export interface Wanted {
  readonly shape: ModelShape
  readonly promptTokens: number
  readonly maxTokens?: number
  readonly narrowestWire: Wire
  readonly edgeSeconds?: number
  readonly pace?: Pace
  /** Prompts that wait behind it. */
  readonly behind?: number
  /** Workers that are to be left out. */
  readonly excluded?: ReadonlySet<string>
}

/** The state of this moment as the planner wants it. */
export function planFacts(state: ClusterState, { excluded, ...wanted }: Wanted): PlanFacts {
  const taken = ({ id }: Worker): boolean => !excluded?.has(id)
  return {
    ...wanted,
    workers: pooledCosts(readyPrefill(state)).filter(taken).map(prefillFacts),
    decode: readyDecode(state).filter(taken).map(decodeFacts),
    links: state.links,
  }
}

/**
 * Who could compute what another worker of a run did not finish: prefill workers, best those that have not failed in it,
 * and at the worst the run's decode node itself. Empty if that is gone too.
 */
export function repairersIn(state: ClusterState, excluded: ReadonlySet<string>, decode: WorkerId): Repairable[] {
  const ready = readyPrefill(state)
  const good = ready.filter(({ id }) => !excluded.has(id))
  if (good.length > 0) return good.map(({ id, cost }) => ({ worker: id, cost }))
  const node = findWorker(state, decode)
  return node === undefined ? [] : [{ worker: node.id, cost: node.cost ?? ready[0]?.cost ?? FREE }]
}

type Repairable = Pick<Repairer, 'worker' | 'cost'>

const FREE: Cost = { o: 0, a: 0, b: 0 }

/** Seconds of arithmetic that a part of a run still takes, as far as its worker's cost is known. */
export function secondsLeftOf(state: ClusterState, { by, layers, finishedLayers }: Part): number {
  const cost = findWorker(state, asWorkerId(by.worker))?.cost
  return cost === undefined ? 0 : (layers.to - finishedLayers) * layerSeconds(cost, by.spans)
}

/** Of its memory budget, what its runs have not reserved. */
export const freeBytes = ({ budgetBytes, reserved }: Pick<Worker, 'budgetBytes' | 'reserved'>): number =>
  Math.max(0, budgetBytes - [...reserved.values()].reduce((sum, bytes) => sum + bytes, 0))

const prefillFacts = (worker: PrefillWorker): PrefillFacts => ({
  ...placeOf(worker),
  runs: worker.runs.length,
  cost: beside(worker, worker.cost),
  sharedCost: beside(worker, worker.sharedCost ?? besideOthers(worker.cost)),
})

/** A worker computes one run after the other: the next one has to wait for those that it has. */
const beside = ({ runs }: Worker, cost: Cost): Cost => slowedCost(cost, 1 + runs.length)

const decodeFacts = (worker: Worker): DecodeFacts => ({
  ...placeOf(worker),
  runs: worker.runs.length,
  ...(worker.cost === undefined ? {} : { cost: beside(worker, worker.cost) }),
})

const placeOf = (worker: Worker) => ({
  id: worker.id,
  host: worker.host,
  cores: worker.cores,
  threads: worker.threads,
  budgetBytes: freeBytes(worker),
  ...(worker.rttSeconds === undefined ? {} : { rttSeconds: worker.rttSeconds }),
})
