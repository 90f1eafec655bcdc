import assert from 'node:assert/strict'
import { it } from 'node:test'
import { planFacts } from '../../../coordinator/cluster/facts.ts'
import { applyEvent, type ClusterEvent, EMPTY_CLUSTER } from '../../../coordinator/cluster/state.ts'
import { linkKey } from '../../../coordinator/planning/facts.ts'
import { asRunId, asWorkerId } from '../../../shared/ids.ts'
import { QWEN_25_HALF_B } from '../planning/support.ts'

const [p, d] = [asWorkerId('p'), asWorkerId('d')]
const place = {
  engine: 'onnx',
  precision: 'f32',
  url: '',
  cores: 8,
  threads: 4,
  memoryBytes: 16e9,
  budgetBytes: 8e9,
} as const
const cost = { o: 1e-4, a: 1e-5, b: 1e-9 }
const times = (by: number) => ({ o: 1e-4 * by, a: 1e-5 * by, b: 1e-9 * by })

it('the planner gets the workers that are ready, with costs, memory and links', () => {
  const events: ClusterEvent[] = [
    { kind: 'worker_joined', at: 0, worker: { ...place, id: p, role: 'prefill', host: 'h1' } },
    { kind: 'worker_joined', at: 0, worker: { ...place, id: d, role: 'decode', host: 'h2' } },
    { kind: 'worker_joined', at: 0, worker: { ...place, id: asWorkerId('x'), role: 'prefill', host: 'h3' } },
    { kind: 'worker_calibrated', at: 0, worker: p, cost },
    { kind: 'worker_calibrated', at: 0, worker: d, cost },
    { kind: 'worker_pinged', at: 1, worker: p, rttSeconds: 0.002, residentBytes: 1, clockSeconds: 0 },
    { kind: 'link_measured', at: 1, link: { from: p, to: d }, bytesPerSecond: 1e8, rttSeconds: 0.001 },
    { kind: 'run_assigned', worker: d, run: asRunId('r'), kvBytes: 3e9 },
  ]
  const twice = times(2) // it has a run to end first
  const sharedCost = times(1.15) // no run has told yet
  const wanted = { shape: QWEN_25_HALF_B, promptTokens: 100, maxTokens: 5, narrowestWire: 'f16' } as const
  const { links, ...facts } = planFacts(events.reduce(applyEvent, EMPTY_CLUSTER), wanted)
  assert.deepEqual(facts, {
    ...wanted,
    workers: [
      { id: p, host: 'h1', cores: 8, threads: 4, runs: 0, cost, sharedCost, budgetBytes: 8e9, rttSeconds: 0.002 },
    ],
    decode: [{ id: d, host: 'h2', cores: 8, threads: 4, runs: 1, cost: twice, budgetBytes: 5e9 }],
  })
  assert.equal(links.get(linkKey('p', 'd'))?.bytesPerSecond, 1e8)
})
