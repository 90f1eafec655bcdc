import assert from 'node:assert/strict'
import { availableParallelism } from 'node:os'
import { test } from 'node:test'
import { realClock } from '../../../shared/link/real-clock.ts'
import { movingCost } from '../../../worker/peers/moving-cost.ts'
import { QWEN_25_HALF_B as shape } from '../../coordinator/planning/support.ts'

test('sockets that have to share a core with arithmetic cost something', async () => {
  const seconds = await movingCost(realClock, { threads: availableParallelism(), shape })
  assert.ok(seconds > 0 && Number.isFinite(seconds), String(seconds))
})

test('sockets that have a core of their own cost nothing', async () => {
  assert.equal(await movingCost(realClock, { threads: availableParallelism() - 1, shape }), 0)
})
