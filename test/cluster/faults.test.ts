import assert from 'node:assert/strict'
import { after, before, describe, it } from 'node:test'
import type { RunEvent, RunRequest } from '../../coordinator/runs/events.ts'
import { HeadraceError } from '../../shared/errors.ts'
import { CONTROL_LIMITS, DATA_LIMITS } from '../../shared/link/link.ts'
import { commandSchema, eventSchema, PROTOCOL_VERSION } from '../../shared/protocol/control.ts'
import { decodeMessage, encodeMessage } from '../../shared/protocol/messages.ts'
import type { ComputeEvent } from '../../worker/compute/messages.ts'
import { equalWorkers, FINGERPRINT, MemoryCluster, type MemoryWorker } from '../support/memory-cluster.ts'
import { createTinyModel, type TinyModel } from '../support/tiny-model.ts'

const request = (of: Partial<RunRequest> = {}): RunRequest => ({
  promptTokens: Int32Array.from({ length: 200 }, (_, i) => (i * 31) % 64),
  maxTokens: 4,
  sampling: { temperature: 0, topP: 1, topK: 0, seed: 0 },
  stopTokens: [],
  strategy: 'chain',
  ...of,
})

const never = (): AbortSignal => new AbortController().signal

const coded = (code: string) => (error: unknown) => error instanceof HeadraceError && error.code === code

async function all(events: AsyncIterable<RunEvent>): Promise<RunEvent[]> {
  const list: RunEvent[] = []
  for await (const event of events) list.push(event)
  return list
}

/** No worker has a run any more, and the queue is empty. */
const quiet = (cluster: MemoryCluster): boolean =>
  cluster.runs.cluster().workers.every(({ runs }) => runs === 0) && cluster.runs.cluster().runs.running === 0

describe('a cluster', () => {
  let model: TinyModel
  let cluster: MemoryCluster
  before(async () => {
    model = await createTinyModel({ seed: 3, layers: 3 })
  })
  after(() => model.remove())

  const within = async (workers: Parameters<typeof MemoryCluster.start>[1]['workers'], body: () => Promise<void>) => {
    cluster = await MemoryCluster.start(model.folder, { workers })
    try {
      await body()
    } finally {
      await cluster.stop()
    }
  }

  for (const stage of ['planned', 'progress', 'prefilled', 'token'] as const) {
    it(`cancels a run on every worker when its client leaves after "${stage}"`, () =>
      within(equalWorkers(3), async () => {
        const controller = new AbortController()
        const run = (async () => {
          for await (const event of cluster.runs.run(request({ maxTokens: 500 }), controller.signal))
            if (event.kind === stage) controller.abort()
        })()
        await assert.rejects(run, coded('cancelled'))
        await cluster.until(() => quiet(cluster) && [...cluster.workers.values()].every((worker) => idle(worker)))
        const after = await all(cluster.runs.run(request(), never()))
        assert.equal(after.at(-1)?.kind, 'finished')
      }))
  }

  it('cancels a run when its generator is left early', () =>
    within(equalWorkers(2), async () => {
      for await (const event of cluster.runs.run(request({ maxTokens: 500 }), never()))
        if (event.kind === 'token') break
      await cluster.until(() => quiet(cluster))
      assert.ok(quiet(cluster))
    }))

  it('ends a run in good order, with its report, when the client has enough text', () =>
    within(equalWorkers(2), async () => {
      const enough = new AbortController()
      const events: RunEvent[] = []
      for await (const event of cluster.runs.run(request({ maxTokens: 500, enough: enough.signal }), never())) {
        events.push(event)
        if (event.kind === 'token' && event.index === 3) enough.abort()
      }
      const last = events.at(-1)
      assert.ok(last?.kind === 'finished' && last.reason === 'stop')
      assert.equal(last.report.workers.length, 3)
      assert.ok(last.report.completionTokens < 500)
    }))

  it('answers though a worker of the run vanishes, and the next prompt without it', () =>
    within(equalWorkers(3), async () => {
      const expected = tokensOf(await all(cluster.runs.run(request({ workers: 3 }), never())))
      const events: RunEvent[] = []
      for await (const event of cluster.runs.run(request({ workers: 3 }), never())) {
        events.push(event)
        if (event.kind === 'planned') void cluster.workers.get('w2')?.agent.leave(0)
      }
      assert.deepEqual(tokensOf(events), expected)
      await cluster.until(() => quiet(cluster) && cluster.runs.plan(10).candidates.length > 0)
      const [planned] = await all(cluster.runs.run(request(), never()))
      assert.ok(planned?.kind === 'planned')
      assert.deepEqual(planned.plan.workers.map(({ worker }) => worker).sort(), ['w1', 'w3'])
    }))

  it('finishes the runs of a leaving worker and gives it no new ones', () =>
    within(equalWorkers(2), async () => {
      let left: Promise<void> | undefined
      const events: RunEvent[] = []
      for await (const event of cluster.runs.run(request({ workers: 2 }), never())) {
        events.push(event)
        if (event.kind === 'planned') left = cluster.workers.get('w2')?.agent.leave(60)
      }
      assert.equal(events.at(-1)?.kind, 'finished')
      await left
      await cluster.until(() => cluster.runs.cluster().workers.length === 2)
      assert.deepEqual(
        cluster.runs.cluster().workers.map(({ id }) => id),
        ['w1', 'd1'],
      )
    }))

  for (const { what, code, meddle } of [
    { what: 'is damaged', code: 'kv_checksum', meddle: (event: ComputeEvent) => damaged(event) },
    { what: 'claims another place', code: 'kv_identity', meddle: (event: ComputeEvent) => moved(event, 1) },
    { what: 'comes twice', code: 'kv_identity', meddle: (event: ComputeEvent) => changed(event, () => ({ layer: 0 })) },
    {
      what: 'is less precise than planned',
      code: 'kv_shape',
      meddle: (event: ComputeEvent) => changed(event, () => ({ dtype: 'f16' })),
    },
    { what: 'is too short', code: 'kv_shape', meddle: (event: ComputeEvent) => shortened(event) },
  ])
    for (const strategy of ['chain', 'ring'] as const)
      it(`answers right though every KV block of a worker ${what} (${strategy}), and names it by \`${code}\``, () => {
        let faulty = false
        const [first, ...others] = equalWorkers(3)
        const worker = { ...first!, meddle: (event: ComputeEvent) => (faulty ? meddle(event) : event) }
        return within([worker, ...others], async () => {
          const asked = request({ workers: 3, strategy })
          const expected = tokensOf(await all(cluster.runs.run(asked, never())))
          faulty = true
          const events = await all(cluster.runs.run(asked, never()))
          assert.deepEqual(tokensOf(events), expected)
          const last = events.at(-1)
          assert.ok(last?.kind === 'finished')
          assert.ok(last.report.repairs.some((repair) => repair.worker === 'w1' && repair.code === code))
          await cluster.until(() => quiet(cluster) && [...cluster.workers.values()].every((one) => idle(one)))
        })
      })

  it('answers right though the only worker hands over nothing but damage: the decode node computes it', () => {
    let faulty = false
    const [only, decode] = equalWorkers(1)
    const worker = { ...only!, meddle: (event: ComputeEvent) => (faulty ? damaged(event) : event) }
    return within([worker, decode!], async () => {
      const expected = tokensOf(await all(cluster.runs.run(request(), never())))
      faulty = true
      assert.deepEqual(tokensOf(await all(cluster.runs.run(request(), never()))), expected)
    })
  })

  for (const stage of ['planned', 'progress', 'prefilled', 'token'] as const)
    for (const sampling of [request().sampling, { temperature: 1.2, topP: 0.95, topK: 0, seed: 77 }])
      it(`goes on elsewhere when the decode node vanishes after "${stage}", at temperature ${sampling.temperature}`, () =>
        within([...equalWorkers(2), { name: 'd2', role: 'decode' }], async () => {
          const asked = request({ maxTokens: 12, sampling })
          const expected = tokensOf(await all(cluster.runs.run(asked, never())))
          const events: RunEvent[] = []
          let left = false
          for await (const event of cluster.runs.run(asked, never())) {
            events.push(event)
            if (event.kind === 'planned') assert.equal(event.plan.decode, 'd1')
            if (left || event.kind !== stage) continue
            left = true
            void cluster.workers.get('d1')?.agent.leave(0)
          }
          assert.deepEqual(tokensOf(events), expected)
          assert.deepEqual(
            events.flatMap((event) => (event.kind === 'token' ? [event.index] : [])),
            expected.map((_, index) => index),
          )
          const last = events.at(-1)
          assert.ok(last?.kind === 'finished' && last.report.attempts === 2)
          assert.equal(last.report.completionTokens, 12)
        }))

  it('waits for another decode node when the only one vanishes', () =>
    within(equalWorkers(2), async () => {
      const asked = request({ maxTokens: 8 })
      const expected = tokensOf(await all(cluster.runs.run(asked, never())))
      const events: RunEvent[] = []
      for await (const event of cluster.runs.run(asked, never())) {
        events.push(event)
        if (event.kind === 'failed_over') void cluster.add({ name: 'd2', role: 'decode' })
        if (event.kind === 'token' && event.index === 2) void cluster.workers.get('d1')?.agent.leave(0)
      }
      assert.deepEqual(tokensOf(events), expected)
    }))

  it('refuses a worker with another model, naming both fingerprints, and goes on', () =>
    within(equalWorkers(1), async () => {
      const stranger = await cluster.add({ name: 'stranger', role: 'prefill', fingerprint: 'a'.repeat(64) })
      await assert.rejects(stranger.served, (error) => {
        assert.ok(coded('fingerprint_mismatch')(error))
        return (
          error instanceof Error && error.message.includes('a'.repeat(64)) && error.message.includes('f'.repeat(64))
        )
      })
      cluster.workers.delete('stranger')
      assert.equal((await all(cluster.runs.run(request(), never()))).at(-1)?.kind, 'finished')
    }))

  it('refuses a worker that speaks another version', () =>
    within(equalWorkers(1), async () => {
      const { served } = await cluster.add({ name: 'old', role: 'prefill', protocol: 999 })
      await assert.rejects(served, coded('protocol_mismatch'))
      cluster.workers.delete('old')
    }))

  it('refuses a second worker of the same name', () =>
    within(equalWorkers(1), async () => {
      const first = cluster.workers.get('w1')!
      const second = await cluster.add({ name: 'w1', role: 'prefill', url: 'memory://other' })
      await cluster.refused('name_taken')
      await second.agent.leave(0)
      assert.equal((await all(cluster.runs.run(request(), never()))).at(-1)?.kind, 'finished')
      cluster.workers.set('w1', first)
    }))

  it('takes a worker back that dials again though its old link is not known to be dead, and ends one that still lives', () =>
    within(equalWorkers(1), async () => {
      const old = cluster.workers.get('w1')!
      cluster.workers.delete('w1')
      const again = await cluster.network.dial('memory://coordinator', CONTROL_LIMITS, never())
      const facts = {
        engine: 'reference',
        precision: 'f32' as const,
        host: 'memory',
        cores: 1,
        threads: 1,
        memoryBytes: 0,
        budgetBytes: 2 ** 40,
        fingerprint: FINGERPRINT,
      }
      const join = {
        kind: 'join',
        protocol: PROTOCOL_VERSION,
        name: 'w1',
        role: 'prefill',
        url: 'memory://w1',
      } as const
      await again.send(encodeMessage(eventSchema, { ...join, ...facts }))
      const answer = decodeMessage(commandSchema, (await again.receive())!, CONTROL_LIMITS.maxFrameBytes)
      assert.equal(answer.message.kind, 'joined')
      // It was alive after all: two processes that took the place from each other by turns would both be of no use.
      await assert.rejects(old.served, coded('name_taken'))
      assert.ok(!again.closed.aborted)
      again.close()
      await cluster.add({ name: 'w1', role: 'prefill' })
      await cluster.until(() => cluster.runs.unready() === undefined)
      assert.equal((await all(cluster.runs.run(request(), never()))).at(-1)?.kind, 'finished')
    }))

  it('answers though a worker of its plan is gone before it is assigned', () =>
    within(equalWorkers(2), async () => {
      const events = cluster.runs.run(request({ workers: 2 }), never())
      const first = await events.next()
      assert.equal(first.value?.kind, 'planned')
      await cluster.workers.get('w2')?.agent.leave(0)
      await cluster.until(() =>
        cluster.runs.cluster().workers.every(({ id, state }) => id !== 'w2' || state === 'lost'),
      )
      assert.equal((await all(events)).at(-1)?.kind, 'finished')
      await cluster.until(() => quiet(cluster))
    }))

  it('ends running and coming runs with `shutting_down` when the coordinator stops', () =>
    within(equalWorkers(2), async () => {
      const stopping = new HeadraceError('shutting_down', 'stopping')
      const run = (async () => {
        for await (const event of cluster.runs.run(request({ maxTokens: 500 }), never()))
          if (event.kind === 'progress') cluster.runs.close(stopping)
      })()
      await assert.rejects(run, coded('shutting_down'))
      await assert.rejects(all(cluster.runs.run(request(), never())), coded('shutting_down'))
    }))

  it('says `no_workers` and `no_decode_node` while it has none', async () => {
    await within([{ name: 'd1', role: 'decode' }], () =>
      assert.rejects(all(cluster.runs.run(request(), never())), coded('no_workers')),
    )
    await within([{ name: 'w1', role: 'prefill' }], () =>
      assert.rejects(all(cluster.runs.run(request(), never())), coded('no_decode_node')),
    )
  })

  it('answers though a worker of its plan cannot be reached by others', () =>
    within(equalWorkers(2), async () => {
      const expected = tokensOf(await all(cluster.runs.run(request({ workers: 1 }), never())))
      const unregister = cluster.network.register('memory://w1', DATA_LIMITS, () => undefined)
      unregister()
      const events = await all(cluster.runs.run(request({ workers: 2 }), never()))
      assert.deepEqual(tokensOf(events), expected)
    }))

  it('repeats a sampled answer for the same seed, and not for another', () =>
    within(equalWorkers(2), async () => {
      const tokens = async (seed: number, strategy: 'solo' | 'chain') => {
        const sampling = { temperature: 1.5, topP: 0.95, topK: 40, seed }
        const events = await all(cluster.runs.run(request({ sampling, strategy, maxTokens: 24 }), never()))
        return events.flatMap((event) => (event.kind === 'token' ? [event.token] : []))
      }
      const once = await tokens(11, 'solo')
      assert.deepEqual(await tokens(11, 'chain'), once)
      assert.notDeepEqual(await tokens(12, 'solo'), once)
    }))
})

const tokensOf = (events: readonly RunEvent[]): number[] =>
  events.flatMap((event) => (event.kind === 'token' ? [event.token] : []))

const idle = ({ agent }: MemoryWorker): boolean => agent.running === 0

const changed = (
  event: ComputeEvent,
  change: (block: Extract<ComputeEvent, { kind: 'published' }>['block']) => object,
) => (event.kind === 'published' ? { ...event, block: { ...event.block, ...change(event.block) } } : event)

const damaged = (event: ComputeEvent) =>
  changed(event, ({ bytes }) => {
    const copy = bytes.slice()
    copy[copy.length >> 1]! ^= 0x10
    return { bytes: copy }
  })
const moved = (event: ComputeEvent, by: number) => changed(event, ({ start }) => ({ start: start + by }))
const shortened = (event: ComputeEvent) => changed(event, ({ bytes }) => ({ bytes: bytes.slice(4) }))
