import assert from 'node:assert/strict'
import { after, before, describe, it } from 'node:test'
import type { RunEvent, RunReport, RunRequest } from '../../coordinator/runs/events.ts'
import { spanTokens } from '../../shared/plan.ts'
import type { ComputeEvent } from '../../worker/compute/messages.ts'
import { equalWorkers, MemoryCluster } from '../support/memory-cluster.ts'
import { createTinyModel, type TinyModel } from '../support/tiny-model.ts'

/** What a worker that dies in the middle of a prompt costs: what it had not handed over, and nobody else's work. */

const LAYERS = 4
const WORKERS = 3
const request = (of: Partial<RunRequest> = {}): RunRequest => ({
  promptTokens: Int32Array.from({ length: 230 }, (_, i) => (i * 29) % 64),
  maxTokens: 4,
  sampling: { temperature: 0, topP: 1, topK: 0, seed: 0 },
  stopTokens: [],
  workers: WORKERS,
  ...of,
})

const never = (): AbortSignal => new AbortController().signal

async function all(events: AsyncIterable<RunEvent>): Promise<RunEvent[]> {
  const list: RunEvent[] = []
  for await (const event of events) list.push(event)
  return list
}

const tokensOf = (events: readonly RunEvent[]): number[] =>
  events.flatMap((event) => (event.kind === 'token' ? [event.token] : []))

function reportOf(events: readonly RunEvent[]): RunReport {
  const last = events.at(-1)
  assert.ok(last?.kind === 'finished')
  return last.report
}

describe('a worker that dies in the middle of a prompt', () => {
  let model: TinyModel
  let cluster: MemoryCluster
  /** Called with each worker's compute events, before anybody else sees them. */
  let watch: (worker: string, event: ComputeEvent) => void = () => undefined
  before(async () => {
    model = await createTinyModel({ seed: 5, layers: LAYERS })
  })
  after(() => model.remove())

  async function within(body: () => Promise<void>, more: Parameters<typeof MemoryCluster.start>[1]['workers'] = []) {
    const workers = [...equalWorkers(WORKERS), ...more].map((worker) => ({
      ...worker,
      meddle: (event: ComputeEvent) => {
        watch(worker.name, event)
        return event
      },
    }))
    watch = () => undefined
    cluster = await MemoryCluster.start(model.folder, {
      workers,
      replan: (plan) => ({ ...plan, blockTokens: 16 }),
    })
    try {
      await body()
    } finally {
      await cluster.stop()
    }
  }

  /** The answer of a run in which the worker at `rank` dies as it finishes `layer`. */
  async function killed(asked: RunRequest, rank: number, layer: number) {
    const { chosen } = cluster.runs.plan(asked.promptTokens.length, asked)
    const victim = chosen.workers[rank]!
    watch = (worker, event) => {
      if (worker === victim.worker && event.kind === 'released' && event.layer === layer)
        cluster.workers.get(worker)!.kill()
    }
    return { events: await all(cluster.runs.run(asked, never())), victim, plan: chosen }
  }

  for (const strategy of ['chain', 'ring'] as const)
    for (const [rank, place] of ['the head', 'a middle one', 'the tail'].entries())
      for (const layer of [0, 1, LAYERS - 1])
        it(`${place}, after layer ${layer}: the answer is the same (${strategy})`, () =>
          within(async () => {
            const asked = request({ strategy })
            const expected = tokensOf(await all(cluster.runs.run(asked, never())))
            const { events, victim, plan } = await killed(asked, rank, layer)
            assert.deepEqual(tokensOf(events), expected)
            const { workers, attempts, repairs } = reportOf(events)
            assert.equal(attempts, 1)
            assert.ok(repairs.some(({ worker, code }) => worker === victim.worker && code === 'worker_lost'))
            // Survivors have computed their spans once, and of the victim's no more than there was was made again.
            const computed = workers
              .filter(({ role }) => role === 'prefill')
              .reduce((sum, { tokens }) => sum + tokens, 0)
            const others = plan.prefillTokens - spanTokens(victim.spans)
            assert.ok(computed >= others && computed <= plan.prefillTokens, `${computed} of ${plan.prefillTokens}`)
            await cluster.until(() => [...cluster.workers.values()].every(({ agent }) => agent.running === 0))
            assert.ok(cluster.runs.cluster().workers.every(({ runs }) => runs === 0))
          }))

  it('and another one that made up for it: the answer is the same', () =>
    within(async () => {
      const asked = request({ strategy: 'chain' })
      const expected = tokensOf(await all(cluster.runs.run(asked, never())))
      const first = cluster.runs.plan(asked.promptTokens.length, asked).chosen.workers[0]!.worker
      const dead = new Set<string>()
      watch = (worker, event) => {
        if (event.kind !== 'released' || dead.size === 2) return
        // First the head, then whoever next finishes a first layer, which is one that makes up for it.
        if (dead.size === 0 ? worker !== first : event.layer > 0 || dead.has(worker)) return
        dead.add(worker)
        cluster.workers.get(worker)!.kill()
      }
      const events = await all(cluster.runs.run(asked, never()))
      assert.equal(dead.size, 2)
      assert.deepEqual(tokensOf(events), expected)
    }))

  it('all of them: the decode node computes the rest', () =>
    within(async () => {
      const asked = request({ strategy: 'chain' })
      const expected = tokensOf(await all(cluster.runs.run(asked, never())))
      watch = (worker, event) => {
        if (event.kind !== 'released' || event.layer > 0) return
        if (!worker.startsWith('d')) cluster.workers.get(worker)!.kill()
      }
      const events = await all(cluster.runs.run(asked, never()))
      assert.deepEqual(tokensOf(events), expected)
      assert.ok(reportOf(events).workers.some(({ worker, role }) => worker === 'd1' && role === 'prefill'))
    }))

  it('and then the decode node, after its first token: the answer goes on where it was', () =>
    within(async () => {
      const asked = request({ strategy: 'chain', maxTokens: 10 })
      const expected = tokensOf(await all(cluster.runs.run(asked, never())))
      const head = cluster.runs.plan(asked.promptTokens.length, asked).chosen.workers[0]!.worker
      watch = (worker, event) => {
        if (worker === head && event.kind === 'released') cluster.workers.get(worker)!.kill()
        if (worker === 'd1' && event.kind === 'token' && event.index === 3) cluster.workers.get(worker)!.kill()
      }
      const events = await all(cluster.runs.run(asked, never()))
      assert.deepEqual(tokensOf(events), expected)
      assert.equal(reportOf(events).attempts, 2)
    }, [{ name: 'd2', role: 'decode' }]))

  for (const strategy of ['chain', 'ring'] as const)
    it(`one damaged block is made again, counted, and its worker named (${strategy})`, async () => {
      await within(async () => {
        const asked = request({ strategy })
        const expected = tokensOf(await all(cluster.runs.run(asked, never())))
        let flipped = false
        watch = (worker, event) => {
          if (flipped || worker !== 'w1' || event.kind !== 'published' || event.block.layer !== 2) return
          flipped = true
          event.block.bytes[5]! ^= 4
        }
        const events = await all(cluster.runs.run(asked, never()))
        assert.ok(flipped)
        assert.deepEqual(tokensOf(events), expected)
        const { repairs, workers } = reportOf(events)
        assert.ok(repairs.length > 0)
        assert.deepEqual(new Set(repairs.map(({ worker, code }) => `${worker} ${code}`)), new Set(['w1 kv_checksum']))
        assert.ok(
          workers.some(({ worker }) => worker === 'w1'),
          'it has finished its part',
        )
        const { values } = await cluster.workers.get('d1')!.metrics.checksumErrors.get()
        assert.equal(values[0]?.value, 1)
      })
    })
})
