import assert from 'node:assert/strict'
import { after, before, describe, it } from 'node:test'
import type { RunEvent, RunRequest } from '../../coordinator/runs/events.ts'
import { lyingEngine } from '../support/lying-engine.ts'
import { equalWorkers, MemoryCluster, type MemoryWorkerOptions } from '../support/memory-cluster.ts'
import { createTinyModel, type TinyModel } from '../support/tiny-model.ts'

const request = (of: Partial<RunRequest> = {}): RunRequest => ({
  promptTokens: Int32Array.from({ length: 300 }, (_, i) => (i * 31) % 64),
  maxTokens: 6,
  sampling: { temperature: 0, topP: 1, topK: 0, seed: 0 },
  stopTokens: [],
  ...of,
})

async function ask(cluster: MemoryCluster, of: Partial<RunRequest> = {}) {
  const events: RunEvent[] = []
  for await (const event of cluster.runs.run(request(of), new AbortController().signal)) events.push(event)
  const last = events.at(-1)
  assert.ok(last?.kind === 'finished')
  return { tokens: events.flatMap((event) => (event.kind === 'token' ? [event.token] : [])), report: last.report }
}

const states = (cluster: MemoryCluster): string[] =>
  cluster.runs.cluster().workers.map(({ id, state }) => `${id} ${state}`)

describe('a cluster that checks itself', () => {
  let model: TinyModel
  let right: number[]
  before(async () => {
    model = await createTinyModel({ seed: 3, layers: 3 })
    await within({ workers: equalWorkers(1) }, async (cluster) => {
      right = (await ask(cluster, { strategy: 'solo' })).tokens
    })
  })
  after(() => model.remove())

  const within = async (
    of: { workers: readonly MemoryWorkerOptions[]; selfCheck?: number },
    work: (cluster: MemoryCluster) => Promise<void>,
  ) => {
    const cluster = await MemoryCluster.start(model.folder, of)
    try {
      await work(cluster)
    } finally {
      await cluster.stop()
    }
  }

  /** Three prefill workers, of which `liar` computes one layer as if it were another. */
  const withLiar = (liar: string): MemoryWorkerOptions[] =>
    equalWorkers(3).map((worker) =>
      worker.name === liar
        ? { ...worker, instead: (engine) => lyingEngine(engine, (layer, mix) => mix(layer === 1 ? 0 : layer)) }
        : worker,
    )

  for (const strategy of ['chain', 'ring'] as const)
    it(`finds nobody among honest workers (${strategy})`, () =>
      within({ workers: equalWorkers(3), selfCheck: 1 }, async (cluster) => {
        const { tokens, report } = await ask(cluster, { strategy, workers: 3 })
        assert.deepEqual(tokens, right)
        assert.ok((await cluster.counted('self_checks_total', { result: 'passed' })) >= report.plan.workers.length)
        assert.ok(!states(cluster).some((state) => state.endsWith('quarantined')))
        assert.equal(await cluster.counted('self_checks_total', { result: 'failed' }), 0)
      }))

  for (const liar of ['w1', 'w2', 'w3'])
    it(`finds ${liar}, which computes a layer wrongly, answers rightly, and plans it no more`, () =>
      within({ workers: withLiar(liar), selfCheck: 1 }, async (cluster) => {
        const { tokens, report } = await ask(cluster, { strategy: 'chain', workers: 3 })
        assert.deepEqual(tokens, right)
        // On a busy machine others may be given up for being slow.
        const wrong = report.repairs.filter(({ code }) => code === 'kv_wrong')
        assert.deepEqual(
          wrong.map(({ worker }) => worker),
          [liar],
        )
        assert.ok(states(cluster).includes(`${liar} quarantined`))
        assert.equal(await cluster.counted('self_checks_total', { result: 'failed' }), 1)
        const next = await ask(cluster, { strategy: 'chain', workers: 2 })
        assert.deepEqual(next.tokens, right)
        assert.ok(!next.report.plan.workers.some(({ worker }) => worker === liar))
      }))

  it('takes a liar that joins again for what it is', () =>
    within({ workers: withLiar('w2'), selfCheck: 1 }, async (cluster) => {
      await ask(cluster, { strategy: 'chain', workers: 3 })
      await cluster.workers.get('w2')!.agent.leave(0)
      await cluster.until(() => !states(cluster).includes('w2 quarantined'))
      await cluster.add({ name: 'w2', role: 'prefill' })
      await cluster.until(() => states(cluster).includes('w2 quarantined'))
      const { report } = await ask(cluster, { strategy: 'chain' })
      assert.ok(!report.plan.workers.some(({ worker }) => worker === 'w2'))
    }))

  it('is told wrong things without a check, so that finding means something', () =>
    within({ workers: withLiar('w2') }, async (cluster) => {
      assert.notDeepEqual((await ask(cluster, { strategy: 'chain', workers: 3 })).tokens, right)
    }))
})
