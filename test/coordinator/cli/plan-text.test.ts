import assert from 'node:assert/strict'
import { test } from 'node:test'
import { type PlanAnswer, planText } from '../../../coordinator/cli/plan-text.ts'

const worker = (id: string, start: number, end: number, wire = 'f32') => ({
  id,
  spans: [[start, end]] as const,
  prefix_wire: 'f32',
  handoff_wire: wire,
})
const solo: PlanAnswer['chosen'] = {
  strategy: 'solo',
  workers: [worker('w1', 0, 99)],
  decode: 'd1',
  decode_tokens: 1,
  predicted_ttft_seconds: 41.2,
  bound: 'compute',
  bound_by: 'w1 computes',
}
const two = {
  ...solo,
  strategy: 'chain',
  workers: [worker('w1', 0, 50), worker('w2', 50, 90, 'f16')],
  decode_tokens: 10,
  predicted_ttft_seconds: 21.5,
}
const ring = { ...two, strategy: 'ring', predicted_ttft_seconds: 30 }
const three = {
  ...two,
  workers: [...two.workers, worker('w3', 90, 95)],
  predicted_ttft_seconds: 22,
  bound: 'link',
  bound_by: 'link w3 to d1',
}
const alone = { ...solo, workers: [], decode_tokens: 100, predicted_ttft_seconds: 80, bound_by: 'd1 computes' }

test('every candidate has a row, and the last line says what each number of workers brings', () => {
  const lines = planText({ chosen: two, candidates: [two, three, ring, solo, alone] }).split('\n')
  assert.equal(lines.length, 2 + 5 + 2)
  assert.match(lines[2]!, /^chain +2 +21\.50 s +w1 computes +w1 0-50, w2 50-90 \(f32, hand-off f16\), d1 the last 10$/)
  assert.match(lines[3]!, /link w3 to d1/)
  assert.match(lines[5]!, /w1 0-99$/)
  assert.equal(
    lines.at(-1),
    'decode node alone 80.00 s, solo 41.20 s, 2 workers and the decode node 21.50 s, 3 workers and the decode node 22.00 s (link w3 to d1): would use 2, chain',
  )
})

test('one worker and none are named', () => {
  assert.match(planText({ chosen: solo, candidates: [solo] }), /would use w1 alone$/)
  assert.match(planText({ chosen: alone, candidates: [alone] }), /would use d1$/)
})
