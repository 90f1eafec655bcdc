import assert from 'node:assert/strict'
import { after, before, describe, it } from 'node:test'
import { toClusterView } from '../../coordinator/cluster/view.ts'
import { DATA_LIMITS, type Link } from '../../shared/link/link.ts'
import { ManualClock } from '../support/manual-clock.ts'
import { MemoryCluster } from '../support/memory-cluster.ts'
import { createTinyModel, type TinyModel } from '../support/tiny-model.ts'

const TICK_SECONDS = 0.5
const WORKERS = [
  { name: 'w1', role: 'prefill', host: 'h1' },
  { name: 'w2', role: 'prefill', host: 'h2' },
  { name: 'd1', role: 'decode', host: 'h3' },
] as const
const ALL = ['w1 d1', 'w2 d1', 'w1 w2', 'w2 w1'].sort()

describe('the links of a cluster', () => {
  let model: TinyModel
  before(async () => {
    model = await createTinyModel({ seed: 3, layers: 2 })
  })
  after(() => model.remove())

  /** A cluster whose coordinator's time is told by the test. */
  const within = async (
    body: (cluster: MemoryCluster, clock: ManualClock) => Promise<void>,
    prepare: (cluster: MemoryCluster) => void = () => undefined,
  ) => {
    const clock = new ManualClock()
    const cluster = await MemoryCluster.start(model.folder, { workers: WORKERS, clock })
    prepare(cluster)
    const watching = new AbortController()
    const watch = cluster.registry.keepWatch(watching.signal)
    try {
      await body(cluster, clock)
    } finally {
      watching.abort()
      await watch
      await cluster.stop()
    }
  }
  const hung: Link[] = []
  const known = ({ registry }: MemoryCluster) => [...registry.state.links.keys()].sort()
  /** Lets time pass once the watch waits for it and has heard of every worker, and waits until it has looked again. */
  const pass = async (cluster: MemoryCluster, clock: ManualClock, seconds = TICK_SECONDS) => {
    await clock.sleeping(TICK_SECONDS)
    await cluster.until(() => cluster.registry.state.workers.every(({ lastSeen }) => lastSeen === clock.now()))
    clock.advance(seconds)
    await clock.sleeping(TICK_SECONDS)
  }

  it('are measured once its workers are ready, and seen by clients', () =>
    within(async (cluster) => {
      await cluster.until(() => cluster.registry.state.links.size === 4)
      assert.deepEqual(known(cluster), ALL)
      assert.ok(cluster.registry.state.workers.every(({ cost }) => cost !== undefined))
      const { links } = toClusterView(cluster.registry.state, 0, { running: 0, waiting: 0 })
      for (const { bytesPerSecond, rttSeconds } of links) assert.ok(bytesPerSecond > 0 && rttSeconds >= 0)
    }))

  it('of a worker that goes are forgotten, of one that comes measured', () =>
    within(async (cluster, clock) => {
      await cluster.until(() => cluster.registry.state.links.size === 4)
      await cluster.workers.get('w2')!.agent.leave(0)
      await cluster.until(() => cluster.registry.state.links.size === 1)
      assert.deepEqual(known(cluster), ['w1 d1'])
      await cluster.add({ name: 'w3', role: 'prefill', host: 'h1' })
      const { registry } = cluster
      await cluster.until(() => registry.state.workers.filter(({ state }) => state === 'ready').length === 3)
      await pass(cluster, clock)
      await cluster.until(() => cluster.registry.state.links.size === 4)
      assert.deepEqual(known(cluster), ['w1 d1', 'w1 w3', 'w3 d1', 'w3 w1'])
    }))

  it('are measured again when they are old', () =>
    within(async (cluster, clock) => {
      const ages = () => [...cluster.registry.state.links.values()].map(({ measuredAt }) => measuredAt)
      await cluster.until(() => ages().length === 4)
      await pass(cluster, clock, 120)
      for (let again = 1; again < 4; again++) {
        await cluster.until(() => ages().filter((at) => at >= 120).length === again)
        await pass(cluster, clock)
      }
      await cluster.until(() => ages().every((at) => at >= 120))
      assert.deepEqual(known(cluster), ALL)
    }))

  it('wait while a run is active', () =>
    within(async (cluster, clock) => {
      await cluster.until(() => cluster.registry.state.links.size === 4)
      const asked = () => [...cluster.registry.state.asked.values()].filter(({ at }) => at >= 120).length
      const request = {
        promptTokens: Int32Array.from({ length: 64 }, (_, i) => i % 64),
        maxTokens: 8,
        sampling: { temperature: 0, topP: 1, topK: 0, seed: 0 },
        stopTokens: [],
        strategy: 'chain',
        workers: 2,
      } as const
      const events = cluster.runs.run(request, new AbortController().signal)
      assert.equal((await events.next()).value?.kind, 'planned')
      await pass(cluster, clock, 120)
      assert.equal(asked(), 0)
      for await (const _ of events) assert.equal(asked(), 0)
      await pass(cluster, clock)
      assert.equal(asked(), 1)
    }))

  it('give way to a run that begins while one is being measured', () =>
    within(
      async (cluster) => {
        await cluster.until(() => hung.length === 1)
        const request = {
          promptTokens: Int32Array.from({ length: 8 }, (_, i) => i),
          maxTokens: 2,
          sampling: { temperature: 0, topP: 1, topK: 0, seed: 0 },
          stopTokens: [],
        }
        const run = cluster.runs.run({ ...request, strategy: 'solo' }, new AbortController().signal)
        assert.equal((await run.next()).value?.kind, 'planned')
        const rest = run.next().catch(() => undefined) // one of its links hangs too
        await cluster.until(() => hung[0]!.closed.aborted)
        await run.return()
        await rest
      },
      // Whoever dials a prefill worker waits for ever.
      ({ network }) => {
        hung.length = 0
        for (const url of ['memory://w1', 'memory://w2'])
          network.register(url, DATA_LIMITS, (link) => {
            hung.push(link)
          })
      },
    ))

  it('that cannot be measured are left out, and do not hold up the others', () =>
    within(
      async (cluster) => {
        await cluster.until(() => cluster.registry.state.links.size === 2)
        assert.deepEqual(known(cluster), ['w2 d1', 'w2 w1'])
        await cluster.until(() => cluster.registry.state.asked.size === 4)
      },
      (cluster) => cluster.network.register('memory://w1', DATA_LIMITS, () => undefined)(),
    ))
})
