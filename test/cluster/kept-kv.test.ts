import assert from 'node:assert/strict'
import { after, before, describe, it } from 'node:test'
import type { RunEvent, RunRequest } from '../../coordinator/runs/events.ts'
import { kvBytesPerTokenLayer } from '../../shared/model-shape.ts'
import { createEngine } from '../../worker/engine/create-engine.ts'
import { collect } from '../support/api.ts'
import { equalWorkers, MemoryCluster } from '../support/memory-cluster.ts'
import { createTinyModel, type TinyModel } from '../support/tiny-model.ts'

/** The KV of a prompt outlives its run at the decode node, for a request that may come again. */

const never = () => new AbortController().signal
const requestOf = (of: Partial<RunRequest> = {}): RunRequest => ({
  promptTokens: Int32Array.from({ length: 150 }, (_, i) => (i * 7) % 50),
  maxTokens: 6,
  sampling: { temperature: 1.1, topP: 1, topK: 0, seed: 3 },
  stopTokens: [],
  wantLogits: true,
  keepUnder: 'k',
  ...of,
})
const told = (events: readonly RunEvent[]) =>
  events.flatMap((event) => (event.kind === 'token' ? [event.token] : event.kind === 'logits' ? [...event.logits] : []))
const reportOf = (events: readonly RunEvent[]) => {
  const last = events.at(-1)!
  return last.kind === 'finished' ? last.report : assert.fail(last.kind)
}
/** Of a run: the workers of its plan, how much of the prompt it did not compute, how often it was begun. */
const account = (events: readonly RunEvent[]) => {
  const { plan, cachedTokens, attempts } = reportOf(events)
  return { workers: plan.workers.length, cachedTokens, attempts }
}
const PLANNED = { workers: 2, cachedTokens: 0, attempts: 1 }
const RESUMED = { workers: 0, cachedTokens: 150, attempts: 1 }

describe('KV that is kept', () => {
  let model: TinyModel
  let tokenBytes: number
  let cluster: MemoryCluster
  const start = (of: Parameters<typeof MemoryCluster.start>[1]) => MemoryCluster.start(model.folder, of)
  before(async () => {
    model = await createTinyModel({ seed: 7, layers: 3 })
    const { shape } = await createEngine('reference', model.folder, { threads: 1 })
    tokenBytes = shape.layers * kvBytesPerTokenLayer(shape)
  })
  after(() => model.remove())

  const run = (request: RunRequest, workers = 2) =>
    collect(cluster.runs.run({ ...request, ...(workers > 0 && { strategy: 'chain', workers }) }, never()))
  const kept = () => cluster.registry.state.workers.find(({ role }) => role === 'decode')?.kept.length ?? 0
  const use = async (of: Parameters<typeof MemoryCluster.start>[1], body: () => Promise<void>) => {
    cluster = await start(of)
    try {
      await body()
    } finally {
      await cluster.stop()
    }
  }

  it('answers the same request again, to the bit, without any of the prompt being computed', () =>
    use({ workers: equalWorkers(2) }, async () => {
      const first = await run(requestOf())
      assert.deepEqual(account(first), PLANNED)
      await cluster.until(() => kept() === 1)
      for (const _again of [1, 2]) {
        const again = await run(requestOf())
        assert.deepEqual(account(again), RESUMED)
        assert.deepEqual(told(again), told(first))
        await cluster.until(() => kept() === 1)
      }
    }))

  it('serves neither another prompt, nor another client, nor one that has no key', () =>
    use({ workers: equalWorkers(2) }, async () => {
      await run(requestOf())
      await cluster.until(() => kept() === 1)
      const { keepUnder: _none, ...once } = requestOf()
      const promptTokens = requestOf().promptTokens.with(17, 3)
      for (const other of [requestOf({ keepUnder: 'l' }), requestOf({ promptTokens }), once])
        assert.deepEqual(account(await run(other)), PLANNED)
    }))

  it('outlives a run that its client leaves after the first token', () =>
    use({ workers: equalWorkers(2) }, async () => {
      const expected = told(await run(requestOf({ keepUnder: 'other' })))
      const leaving = new AbortController()
      const request: RunRequest = { ...requestOf(), strategy: 'chain', workers: 2 }
      for await (const event of cluster.runs.run(request, leaving.signal)) if (event.kind === 'token') break
      await cluster.until(() => kept() === 2)
      const again = await run(requestOf())
      assert.deepEqual([account(again), told(again)], [RESUMED, expected])
    }))

  it('is not kept of a prompt that was not computed to its end', () =>
    use({ workers: equalWorkers(2) }, async () => {
      const request: RunRequest = { ...requestOf(), strategy: 'chain', workers: 2 }
      for await (const event of cluster.runs.run(request, never())) if (event.kind === 'progress') break
      await cluster.until(() => cluster.registry.state.workers.every(({ runs }) => runs.length === 0))
      assert.deepEqual(account(await run(requestOf())), PLANNED)
    }))

  it('makes way for other runs, and is computed anew when it was counted on', () =>
    use(
      {
        workers: [
          { name: 'w1', role: 'prefill' },
          { name: 'w2', role: 'prefill' },
          { name: 'd1', role: 'decode', budgetBytes: 320 * tokenBytes, kvBudgetBytes: 320 * tokenBytes },
        ],
      },
      async () => {
        const first = await run(requestOf())
        await cluster.until(() => kept() === 1)
        const names = cluster.registry.state.workers.flatMap((worker) => worker.kept)
        const large = { promptTokens: Int32Array.from({ length: 300 }, (_, i) => i % 40), keepUnder: 'large' }
        await run(requestOf(large))
        // The last word of it: what is kept now is the other prompt's.
        await cluster.until(
          () => kept() === 1 && !cluster.registry.state.workers.some((w) => w.kept.includes(names[0]!)),
        )
        const worker = cluster.registry.state.workers.find(({ role }) => role === 'decode')!.id
        cluster.registry.apply({ kind: 'kv_kept', worker, names }) // as if the word of it were still on its way
        const again = await run(requestOf())
        assert.deepEqual(told(again), told(first))
        const { attempts, cachedTokens, repairs } = reportOf(again)
        assert.deepEqual([attempts, cachedTokens, repairs.map(({ code }) => code)], [2, 0, ['kv_gone']])
      },
    ))
})
