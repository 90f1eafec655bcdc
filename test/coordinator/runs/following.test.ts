import assert from 'node:assert/strict'
import { describe, it } from 'node:test'
import { AttemptFailed } from '../../../coordinator/runs/attempt.ts'
import { Following } from '../../../coordinator/runs/following.ts'
import type { WorkerNews } from '../../../coordinator/runs/news.ts'
import { ManualClock } from '../../support/manual-clock.ts'
import { chainPlan } from '../../support/scripted-runs.ts'

const request = {
  promptTokens: Int32Array.of(5, 6, 7),
  maxTokens: 4,
  sampling: { temperature: 0, topP: 1, topK: 0, seed: 0 },
  stopTokens: [9],
  wantLogits: true,
}
const token = (index: number, id: number): WorkerNews => ({
  worker: 'd1',
  event: { kind: 'token_sampled', run: 'r', index, token: id },
  payload: new Uint8Array(),
})

function following() {
  const follow = new Following(request, new ManualClock(), 0)
  follow.begin(chainPlan(3))
  return follow
}

describe('the answer of a run', () => {
  it('goes on after another decode node where the first one left it, and tells nothing twice', () => {
    const follow = following()
    for (const [index, id] of [
      [0, 11],
      [1, 12],
    ] as const)
      assert.deepEqual(follow.event(token(index, id), 2), { kind: 'token', index, token: id })
    const rest = follow.remaining()
    assert.deepEqual([...rest.promptTokens], [5, 6, 7, 11, 12])
    assert.deepEqual([rest.maxTokens, rest.wantLogits], [2, false])
    follow.begin(chainPlan(5))
    assert.deepEqual(follow.event(token(0, 13), 2), { kind: 'token', index: 2, token: 13 })
    assert.equal(follow.event(token(0, 13), 2), undefined)
    assert.equal(follow.complete, false)
    follow.event(token(1, 9), 2)
    assert.equal(follow.complete, true)
    assert.deepEqual([follow.reason, follow.tokens], ['stop', [11, 12, 13, 9]])
  })

  it('has no gaps: a decode node that leaves out a token is given up', () => {
    const follow = following()
    follow.event(token(0, 11), 2)
    assert.throws(() => follow.event(token(2, 13), 2), AttemptFailed)
    assert.deepEqual(follow.tokens, [11])
  })
})
