import assert from 'node:assert/strict'
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { after, before, describe, it } from 'node:test'
import { until } from '../../coordinator/cli/local-cluster.ts'
import { startHeadless } from '../../coordinator/coordinator.ts'
import type { EngineName } from '../../shared/engine-name.ts'
import { createLog } from '../../shared/log.ts'
import { expectedCases } from '../support/hf-expected.ts'
import { maxAbsDifference } from '../support/numbers.ts'
import { fixture } from '../support/paths.ts'
import { Headrace } from '../support/processes.ts'

/** KV is the same whatever engine made it: workers of one cluster, each its own process, may have different ones. */

const TOLERANCE = 2e-3

for (const { model, prefill, decode } of [
  { model: 'llama', prefill: ['onnx', 'tfjs'], decode: 'onnx' },
  { model: 'gemma3', prefill: ['tfjs', 'onnx', 'tfjs'], decode: 'tfjs' },
] as const)
  describe(`${model} on workers with ${prefill.join(', ')}, answered from by ${decode}`, () => {
    const cases = expectedCases(fixture(model)).filter(({ ids }) => ids.length > 100)

    let cache: string
    before(() => {
      cache = mkdtempSync(join(tmpdir(), 'headrace-mixed-'))
    })
    after(() => rmSync(cache, { recursive: true }))

    it('gives the reference logits and tokens, by chain and by ring', async () => {
      const headless = await startHeadless(fixture(model), cache, createLog('test', 'silent'))
      const start = (role: string, engine: EngineName, name: string) =>
        new Headrace(
          ...['worker', '--coordinator', headless.url, '--model', fixture(model), '--role', role, '--name', name],
          ...['--engine', engine, '--threads', '1', '--log-level', 'silent'],
        )
      const workers = prefill.map((engine, i) => start('prefill', engine, `${engine}-${i}`))
      workers.push(start('decode', decode, `${decode}-decode`))
      try {
        const { runs } = headless
        const ready = () => runs.cluster().workers.filter(({ state }) => state === 'ready').length
        await until(() => ready() === workers.length, AbortSignal.timeout(60_000))
        assert.ok(cases.length > 0)
        for (const { ids, last_logits, greedy_next_8 } of cases)
          for (const strategy of ['chain', 'ring'] as const) {
            const found = await answer(runs, ids, strategy, prefill.length)
            assert.equal(found.workers, prefill.length)
            assert.ok(maxAbsDifference(found.logits, last_logits) < TOLERANCE)
            assert.deepEqual(found.tokens, greedy_next_8)
          }
      } finally {
        for (const worker of workers) await worker.stop()
        await headless.close()
      }
      for (const { errors } of workers) assert.equal(errors, '')
    })
  })

type Runs = Awaited<ReturnType<typeof startHeadless>>['runs']

async function answer(runs: Runs, ids: readonly number[], strategy: 'chain' | 'ring', workers: number) {
  const request = {
    promptTokens: Int32Array.from(ids),
    maxTokens: 8,
    sampling: { temperature: 0, topP: 1, topK: 0, seed: 0 },
    stopTokens: [],
    strategy,
    workers,
    wantLogits: true,
  }
  const found = { workers: 0, logits: new Float32Array(), tokens: [] as number[] }
  for await (const event of runs.run(request, new AbortController().signal)) {
    if (event.kind === 'planned') found.workers = event.plan.workers.length
    else if (event.kind === 'logits') found.logits = new Float32Array(event.logits)
    else if (event.kind === 'token') found.tokens.push(event.token)
  }
  return found
}
