import assert from 'node:assert/strict'
import { syncBuiltinESMExports } from 'node:module'
import os from 'node:os'
import { test } from 'node:test'
import { createEngine } from '../../../worker/engine/create-engine.ts'
import { expectedCases } from '../../support/hf-expected.ts'
import { maxAbsDifference } from '../../support/numbers.ts'
import { fixture } from '../../support/paths.ts'
import { PlainRun } from '../../support/plain-run.ts'

/** Alone in its process: the number of processors is made up, and threads that stay would keep the process from ending. */
test('the tfjs engine computes on threads, and leaves none and no handlers behind', async () => {
  const processors = os.cpus()
  os.cpus = () => [...processors, ...processors, ...processors, ...processors]
  syncBuiltinESMExports()
  const handlers = () =>
    ['uncaughtException', 'unhandledRejection'].map((event) => process.listenerCount(event as 'exit'))
  const before = handlers()
  const engine = await createEngine('tfjs', fixture('llama'), { threads: 2 })
  assert.deepEqual(handlers(), before)
  const { getThreadsCount } = await import('@tensorflow/tfjs-backend-wasm')
  assert.equal(getThreadsCount(), 2)
  for (const { ids, last_logits } of expectedCases(fixture('llama'))) {
    const run = new PlainRun(engine, ids.length, { chunkTokens: 256, blockTokens: 512 })
    assert.ok(maxAbsDifference(await run.feed(ids), last_logits) < 5e-5)
  }
  await engine.close()
})
