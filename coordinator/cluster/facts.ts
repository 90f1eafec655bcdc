import type { ModelShape } from '../../shared/model-shape.ts'
import type { Wire } from '../../shared/plan.ts'
import type { Cost } from '../../shared/protocol/control.ts'
import type { DecodeFacts, PlanFacts, PrefillFacts } from '../planning/facts.ts'
import { type ClusterState, type PrefillWorker, readyDecode, readyPrefill, type Worker } from './state.ts'

export interface Wanted {
  readonly shape: ModelShape
  readonly promptTokens: number
  readonly maxTokens?: number
  readonly narrowestWire: Wire
  readonly edgeSeconds?: number
  readonly pace?: number
}

/** The state of this moment as the planner wants it. */
export const planFacts = (state: ClusterState, wanted: Wanted): PlanFacts => ({
  ...wanted,
  workers: readyPrefill(state).map(prefillFacts),
  decode: readyDecode(state).map(decodeFacts),
  links: state.links,
})

/** Of its memory budget, what its runs have not reserved. */
export const freeBytes = ({ budgetBytes, reserved }: Pick<Worker, 'budgetBytes' | 'reserved'>): number =>
  Math.max(0, budgetBytes - [...reserved.values()].reduce((sum, bytes) => sum + bytes, 0))

const prefillFacts = (worker: PrefillWorker): PrefillFacts => ({
  ...placeOf(worker),
  cost: beside(worker, worker.cost),
  ...(worker.sharedCost === undefined ? {} : { sharedCost: beside(worker, worker.sharedCost) }),
})

/** A worker computes one run after the other: the next one has to wait for those that it has. */
function beside({ runs }: Worker, { o, a, b, c, s }: Cost): Cost {
  const share = 1 + runs.length
  const given = { ...(c !== undefined && { c: c * share }), ...(s !== undefined && { s: s * share }) }
  return { o: o * share, a: a * share, b: b * share, ...given }
}

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
