import assert from 'node:assert/strict'
import { test } from 'node:test'
import { edgeSecondsOf, measurementsOf } from '../../../coordinator/runs/measurements.ts'
import { spansOf } from '../../../coordinator/trace/run-trace.ts'
import { asWorkerId } from '../../../shared/ids.ts'
import type { Plan } from '../../../shared/plan.ts'
import type { WorkerReport } from '../../../shared/protocol/run-types.ts'
import { tracedReport } from '../../support/sample-trace.ts'
import { LLAMA_32_1B } from '../planning/support.ts'

const WIRES = { prefixWire: 'f32', handoffWire: 'f32' } as const
const [w1, w2, d] = [asWorkerId('w1'), asWorkerId('w2'), asWorkerId('d')]

const plan = (prefillTokens: number): Plan => ({
  strategy: 'chain',
  promptTokens: 101,
  prefillTokens,
  workers: [
    { worker: w1, spans: [{ start: 0, end: 60 }], computeSeconds: 1, ...WIRES },
    { worker: w2, spans: [{ start: 60, end: prefillTokens }], computeSeconds: 1, ...WIRES },
  ],
  decode: d,
  blockTokens: 512,
  predictedTtftSeconds: 1,
  bound: 'compute',
  boundBy: 'w1 computes',
})

const report = (worker: string, computeSeconds: number): WorkerReport => ({
  worker,
  role: worker === 'd' ? 'decode' : 'prefill',
  tokens: 1,
  computeSeconds,
  attendSeconds: computeSeconds / 2,
  movingSeconds: computeSeconds / 10,
  waitSeconds: 0.25,
  sendSeconds: 0,
  sent: [],
})

const measured = (of: Plan, hosts: Record<string, string>, seconds = 1, besideOthers = false) =>
  measurementsOf({
    plan: of,
    workers: [w1, w2, d].map((worker) => report(worker, seconds)),
    shape: LLAMA_32_1B,
    besideOthers,
    hostOf: (worker) => hosts[worker],
  })

test('each worker is measured by its own work, and by all that it moved', () => {
  const layers = LLAMA_32_1B.layers
  const [first, second, ...rest] = measured(plan(100), { w1: 'a', w2: 'b', d: 'c' })
  assert.deepEqual(rest, [])
  assert.equal(first!.measured.work.c, 0)
  assert.equal(first!.measured.work.s, layers * 60 + (layers - 1) * 60)
  assert.equal(second!.measured.work.c, (layers - 1) * 60)
  assert.equal(second!.measured.work.s, layers * 40 + (layers - 1) * 60)
  const { movingSeconds, waitSeconds } = second!.measured
  assert.deepEqual([movingSeconds, waitSeconds], [0.1, 0.25])
})

test('workers of a host, and all while another run is on its way, are not measured alone', () => {
  const shared = (...of: Parameters<typeof measured>) => measured(...of).map((event) => event.shared)
  assert.deepEqual(shared(plan(100), { w1: 'a', w2: 'b', d: 'b' }), [false, false])
  assert.deepEqual(shared(plan(100), { w1: 'a', w2: 'a', d: 'b' }), [true, true])
  assert.deepEqual(shared(plan(100), { w1: 'a', w2: 'b', d: 'c' }, 1, true), [true, true])
})

test('a decode node that computes more than the last token is measured, and counts as company', () => {
  const events = measured(plan(90), { w1: 'a', w2: 'b', d: 'b' })
  assert.deepEqual(
    events.map(({ worker, shared }) => [worker, shared]),
    [
      [w1, false],
      [w2, true],
      [d, false],
    ],
  )
  assert.equal(events[2]!.measured.work.s, LLAMA_32_1B.layers * 90)
})

test('a short run is overhead and chance', () => {
  assert.deepEqual(measured(plan(90), {}, 0.04), [])
})

test('tells what a run takes before its first and after its last arithmetic', () => {
  const { trace } = tracedReport()
  const ends = trace.workers.flatMap(spansOf).flatMap(({ kind, end }) => (kind === 'mix' ? [end] : []))
  const last = Math.max(...ends.filter((end) => end <= 2.5))
  const found = edgeSecondsOf(trace) ?? Number.NaN
  assert.ok(Math.abs(found - (2.5 - last)) < 1e-3, `${found}: arithmetic begins with the plan and ends at ${last}`)
  const late = trace.milestones.map((one) => (one.name === 'planned' ? { ...one, seconds: 0.2 } : one))
  assert.ok(Math.abs(edgeSecondsOf({ ...trace, milestones: late })! - found - 0.3) < 1e-3)
  assert.equal(edgeSecondsOf({ ...trace, workers: [] }), undefined)
})
