import assert from 'node:assert/strict'
import { test } from 'node:test'
import { mayCalibrate } from '../../../coordinator/cluster/next-calibration.ts'
import { applyEvent, type ClusterEvent, EMPTY_CLUSTER } from '../../../coordinator/cluster/state.ts'
import { asWorkerId, type WorkerId } from '../../../shared/ids.ts'

const place = {
  role: 'prefill',
  engine: 'e',
  precision: 'f32',
  url: 'u',
  cores: 8,
  threads: 4,
  memoryBytes: 9,
  budgetBytes: 9,
} as const
const joined = (name: string, host: string): ClusterEvent => ({
  kind: 'worker_joined',
  at: 0,
  worker: { ...place, id: asWorkerId(name), host },
})
const [a, b, c] = [asWorkerId('a'), asWorkerId('b'), asWorkerId('c')]
const all = [joined('a', 'h'), joined('b', 'h'), joined('c', 'elsewhere')]
const seen = (begun: ReadonlyMap<WorkerId, number>, expected = 0) => ({ begun, expected, since: 0 })
const stateAfter = (...events: ClusterEvent[]) => [...all, ...events].reduce(applyEvent, EMPTY_CLUSTER)

test('workers of a host take turns, in the order of joining; those of other hosts need not wait', () => {
  assert.deepEqual(mayCalibrate(stateAfter(), seen(new Map()), 0), [a, c])
  const begun = new Map([
    [a, 0],
    [c, 0],
  ])
  assert.deepEqual(mayCalibrate(stateAfter(), seen(begun), 1), [])
  assert.deepEqual(mayCalibrate(stateAfter({ kind: 'worker_calibrated', at: 2, worker: a }), seen(begun), 2), [b])
  assert.deepEqual(mayCalibrate(stateAfter({ kind: 'worker_lost', worker: a, reason: 'gone' }), seen(begun), 2), [b])
})

test('nobody is told twice, and one that hangs does not keep its host out for ever', () => {
  const begun = new Map([
    [a, 0],
    [c, 0],
  ])
  assert.deepEqual(mayCalibrate(stateAfter(), seen(begun), 59), [])
  assert.deepEqual(mayCalibrate(stateAfter(), seen(begun), 61), [b])
})

test('none is timed while others that are expected still load, but they are not waited for without end', () => {
  const none = seen(new Map(), 4)
  assert.deepEqual(mayCalibrate(stateAfter(), none, 59), [])
  assert.deepEqual(mayCalibrate(stateAfter(joined('d', 'h')), none, 0), [a, c])
  assert.deepEqual(mayCalibrate(stateAfter(), none, 60), [a, c])
  assert.deepEqual(mayCalibrate(stateAfter(), seen(new Map([[a, 0]]), 4), 1), [c], 'it has begun')
})
