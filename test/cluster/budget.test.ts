import assert from 'node:assert/strict'
import { after, before, describe, it } from 'node:test'
import type { RunEvent, RunRequest } from '../../coordinator/runs/events.ts'
import { HeadraceError } from '../../shared/errors.ts'
import { kvBytesPerTokenLayer } from '../../shared/model-shape.ts'
import { prefillBytes } from '../../shared/prefill-memory.ts'
import { createEngine } from '../../worker/engine/create-engine.ts'
import { collect } from '../support/api.ts'
import { MemoryCluster, type MemoryWorkerOptions } from '../support/memory-cluster.ts'
import { createTinyModel, type TinyModel } from '../support/tiny-model.ts'

/** Runs that share the memory of a decode node. */

const MAX_TOKENS = 4
const never = () => new AbortController().signal
const requestOf = (tokens: number): RunRequest => ({
  promptTokens: Int32Array.from({ length: tokens }, (_, i) => (i * 7) % 50),
  maxTokens: MAX_TOKENS,
  sampling: { temperature: 0, topP: 1, topK: 0, seed: 1 },
  stopTokens: [],
})
const tokensOf = (events: readonly RunEvent[]) =>
  events.flatMap((event) => (event.kind === 'token' ? [event.token] : []))
const coded = (code: string) => (thrown: unknown) => thrown instanceof HeadraceError && thrown.code === code

describe('the memory of a decode node', () => {
  let model: TinyModel
  let tokenBytes: number
  before(async () => {
    model = await createTinyModel({ seed: 7, layers: 3 })
    const { shape } = await createEngine('reference', model.folder, { threads: 1 })
    tokenBytes = shape.layers * kvBytesPerTokenLayer(shape)
  })
  after(() => model.remove())

  /** With room for so many tokens. */
  const start = (tokens: number, of: Partial<MemoryWorkerOptions> = {}) =>
    MemoryCluster.start(model.folder, {
      workers: [
        { name: 'w1', role: 'prefill' },
        { name: 'd1', role: 'decode', budgetBytes: tokens * tokenBytes, ...of },
      ],
    })
  const run = (cluster: MemoryCluster, tokens: number) => collect(cluster.runs.run(requestOf(tokens), never()))

  it('makes a run wait whose KV fits when another has ended, and both are answered', async () => {
    const cluster = await start(320)
    try {
      const alone = tokensOf(await run(cluster, 200))
      const order: string[] = []
      const watched = async (name: string, tokens: number) => {
        const events: RunEvent[] = []
        for await (const event of cluster.runs.run(requestOf(tokens), never())) {
          if (event.kind === 'planned' || event.kind === 'finished') order.push(`${name} ${event.kind}`)
          events.push(event)
        }
        return tokensOf(events)
      }
      const answers = await Promise.all([watched('first', 200), watched('second', 200)])
      assert.deepEqual(answers, [alone, alone])
      assert.deepEqual(order, ['first planned', 'first finished', 'second planned', 'second finished'])
    } finally {
      await cluster.stop()
    }
  })

  it('lets two runs go on together that fit together', async () => {
    const cluster = await start(500)
    try {
      let most = 0
      const watched = async () => {
        for await (const _ of cluster.runs.run(requestOf(200), never()))
          most = Math.max(most, cluster.runs.cluster().runs.running)
      }
      await Promise.all([watched(), watched()])
      assert.equal(most, 2)
    } finally {
      await cluster.stop()
    }
  })

  it('refuses at once what it could not hold if it were empty, while others go on', async () => {
    const cluster = await start(250)
    try {
      const fitting = run(cluster, 200)
      await assert.rejects(run(cluster, 260), coded('plan_impossible'))
      assert.equal(tokensOf(await fitting).length, MAX_TOKENS)
      assert.equal(cluster.runs.cluster().runs.waiting, 0)
    } finally {
      await cluster.stop()
    }
  })

  it('that is less than it said ends one run by its code, and no other', async () => {
    const cluster = await start(10_000, { kvBudgetBytes: 250 * tokenBytes })
    try {
      const [large, small] = await Promise.allSettled([run(cluster, 300), run(cluster, 40)])
      assert.ok(large.status === 'rejected' && coded('out_of_memory')(large.reason), String(large))
      assert.ok(small.status === 'fulfilled' && tokensOf(small.value).length === MAX_TOKENS)
      assert.equal(tokensOf(await run(cluster, 100)).length, MAX_TOKENS)
      await cluster.until(() => [...cluster.workers.values()].every(({ agent }) => agent.running === 0))
    } finally {
      await cluster.stop()
    }
  })
})

describe('the memory of a prefill worker', () => {
  const TOKENS = 200
  let model: TinyModel
  let partBytes: number
  let expected: number[]
  before(async () => {
    model = await createTinyModel({ seed: 7, layers: 3 })
    const { shape } = await createEngine('reference', model.folder, { threads: 1 })
    partBytes = prefillBytes(shape, { own: TOKENS, others: 0 })
    await use({}, async (cluster) => {
      expected = tokensOf(await collect(solo(cluster)))
    })
  })
  after(() => model.remove())

  const solo = (cluster: MemoryCluster) =>
    cluster.runs.run({ ...requestOf(TOKENS), strategy: 'solo', workers: 1 }, never())
  async function use(of: Partial<MemoryWorkerOptions>, body: (cluster: MemoryCluster) => Promise<void>) {
    const workers: MemoryWorkerOptions[] = [
      { name: 'w1', role: 'prefill', ...of },
      { name: 'd1', role: 'decode' },
    ]
    const cluster = await MemoryCluster.start(model.folder, { workers })
    try {
      await body(cluster)
    } finally {
      await cluster.stop()
    }
  }

  it('makes a run wait for a part that another has of it, and both are answered', () =>
    use({ budgetBytes: 1.5 * partBytes }, async (cluster) => {
      let most = 0
      const watched = async () => {
        const events: RunEvent[] = []
        for await (const event of solo(cluster)) {
          events.push(event)
          const { reserved } = cluster.registry.state.workers.find(({ role }) => role === 'prefill')!
          most = Math.max(most, reserved.size)
        }
        return tokensOf(events)
      }
      assert.deepEqual(await Promise.all([watched(), watched(), watched()]), [expected, expected, expected])
      assert.equal(most, 1)
    }))

  it('is counted as free for a question that is meant for later', () =>
    use({ budgetBytes: 1.5 * partBytes }, async (cluster) => {
      const ask = { strategy: 'solo', workers: 1 } as const
      for await (const event of solo(cluster))
        if (event.kind === 'planned') {
          assert.throws(() => cluster.runs.plan(TOKENS, ask), coded('plan_impossible'))
          assert.equal(cluster.runs.plan(TOKENS, { ...ask, idle: true }).chosen.workers.length, 1)
        }
      assert.equal(cluster.runs.plan(TOKENS, ask).chosen.workers.length, 1)
    }))

  it('that is less than it said leaves the part to somebody else', () =>
    use({ kvBudgetBytes: partBytes / 2 }, async (cluster) => {
      const events = await collect(solo(cluster))
      assert.deepEqual(tokensOf(events), expected)
      const last = events.at(-1)!
      assert.ok(last.kind === 'finished')
      assert.deepEqual(
        last.report.repairs.map(({ worker, code }) => ({ worker, code })),
        [{ worker: 'w1', code: 'out_of_memory' }],
      )
    }))

  it('refuses at once what it could not hold if it were idle', () =>
    use({ budgetBytes: partBytes / 2 }, async (cluster) => {
      await assert.rejects(collect(solo(cluster)), coded('plan_impossible'))
    }))
})
