import assert from 'node:assert/strict'
import { describe, it } from 'node:test'
import { applyEvent, type ClusterEvent, EMPTY_CLUSTER } from '../../../coordinator/cluster/state.ts'
import { keptName, resumption } from '../../../coordinator/runs/kept-kv.ts'
import { asWorkerId } from '../../../shared/ids.ts'

const request = { keepUnder: 'k', promptTokens: Int32Array.of(1, 2, 3), maxTokens: 4 }
const name = keptName(request)!

describe('the name of kept KV', () => {
  it('is the same for the same request, wherever its tokens lie in memory', () => {
    const promptTokens = Int32Array.of(9, 1, 2, 3).subarray(1)
    assert.equal(keptName({ ...request, promptTokens }), name)
    assert.match(name, /^[0-9a-f]{64}$/)
  })

  for (const [what, other] of [
    ['another key', { keepUnder: 'l' }],
    ['another prompt', { promptTokens: Int32Array.of(1, 2, 4) }],
    ['another length of the answer', { maxTokens: 5 }],
  ] as const)
    it(`is another one for ${what}`, () => assert.notEqual(keptName({ ...request, ...other }), name))

  it('is none for a request that is not to come again', () => {
    const { keepUnder: _none, ...once } = request
    assert.equal(keptName(once), undefined)
  })
})

describe('the plan to resume', () => {
  const worker = asWorkerId('d1')
  const place = { host: 'h', url: 'ws://d1', cores: 1, threads: 1, memoryBytes: 0, budgetBytes: 1e9 }
  const after = (...events: ClusterEvent[]) => events.reduce(applyEvent, EMPTY_CLUSTER)
  const joined: ClusterEvent = {
    kind: 'worker_joined',
    at: 0,
    worker: { id: worker, role: 'decode', engine: 'onnx', precision: 'f32', ...place },
  }
  const ready: ClusterEvent = { kind: 'worker_calibrated', at: 0, worker }
  const keeps = (...names: string[]): ClusterEvent => ({ kind: 'kv_kept', worker, names })

  it('computes nothing, at the decode node that has kept the KV', () => {
    const plan = resumption(request, after(joined, ready, keeps('other', name)), 0.01)
    assert.deepEqual(
      [plan?.decode, plan?.promptTokens, plan?.prefillTokens, plan?.workers, plan?.predictedTtftSeconds],
      [worker, 3, 3, [], 0.01],
    )
  })

  for (const [what, events] of [
    ['nobody has kept it', [joined, ready, keeps('other')]],
    ['it is kept no more', [joined, ready, keeps(name), keeps()]],
    ['the node is not ready', [joined, keeps(name)]],
    ['the node has gone', [joined, ready, keeps(name), { kind: 'worker_lost', worker, reason: 'killed' }]],
    [
      'the node has come back without it',
      [joined, ready, keeps(name), { kind: 'worker_lost', worker, reason: 'killed' }, joined, ready],
    ],
  ] as readonly [string, ClusterEvent[]][])
    it(`is none if ${what}`, () => assert.equal(resumption(request, after(...events), 0), undefined))
})
