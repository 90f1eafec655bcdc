import assert from 'node:assert/strict'
import { after, before, describe, it } from 'node:test'
import { realClock } from '../../shared/link/real-clock.ts'
import { WIRES, type Wire } from '../../shared/plan.ts'
import type { ComputeEvent } from '../../worker/compute/messages.ts'
import { expectedCases } from '../support/hf-expected.ts'
import { equalWorkers, MemoryCluster } from '../support/memory-cluster.ts'
import { maxAbsDifference } from '../support/numbers.ts'
import { fixture } from '../support/paths.ts'
import { sentOut } from '../support/sent-out.ts'

/** Blocks keep the precision that the plan gives their maker, all the way, and answers stay within its error. */

const WORKERS = 3
const LAYERS = 3
const BLOCK_TOKENS = 20

/** Absolute errors of a logit. The fixture's weights are random and its logits reach from -4 to 4, so this is a hard case. */
const F16_TOLERANCE = 2e-3
const INT8_TOLERANCE = 8e-2

interface Wires {
  readonly prefix: readonly Wire[]
  readonly handoff: readonly Wire[]
}

type PublishedEvent = Extract<ComputeEvent, { kind: 'published' }>

interface Published {
  readonly uses: PublishedEvent['uses']
  readonly layer: number
  readonly dtype: Wire
  readonly byteLength: number
}

const all = (wire: Wire): Wire[] => Array.from({ length: WORKERS }, () => wire)

describe('a prompt split with a planned wire precision', () => {
  const { ids } = expectedCases(fixture('llama')).find((expected) => expected.ids.length > 100)!
  const published = new Map<string, Published[]>()
  let cluster: MemoryCluster
  before(async () => {
    const workers = equalWorkers(WORKERS).map((worker) => ({ ...worker, meddle: noted(worker.name) }))
    cluster = await MemoryCluster.start(fixture('llama'), { workers })
  })
  after(() => cluster.stop())

  const noted = (worker: string) => (event: ComputeEvent) => {
    if (event.kind !== 'published') return event
    const { uses, block } = event
    const { layer, dtype, bytes } = block // which are given away when they have been sent
    published.set(worker, [...(published.get(worker) ?? []), { uses, layer, dtype, byteLength: bytes.length }])
    return event
  }

  /** The logits of the first token, and what each worker sent. */
  async function run(strategy: 'solo' | 'chain' | 'ring', wires: Wires) {
    published.clear()
    const promptTokens = Int32Array.from(ids)
    const { chosen } = cluster.runs.plan(ids.length, { strategy, workers: strategy === 'solo' ? 1 : WORKERS })
    const workers = chosen.workers.map((worker, i) => ({
      ...worker,
      prefixWire: wires.prefix[i]!,
      handoffWire: wires.handoff[i]!,
    }))
    const plan = { ...chosen, workers, blockTokens: BLOCK_TOKENS }
    const sampling = { temperature: 0, topP: 1, topK: 0, seed: 0 }
    const request = { promptTokens, maxTokens: 1, sampling, stopTokens: [], wantLogits: true }
    const sending = { id: 'run', plan, request, layers: LAYERS, workers: cluster.registry, clock: realClock }
    let logits = new Float32Array(0)
    for await (const { event, payload } of sentOut(sending))
      if (event.kind === 'logits_computed') logits = new Float32Array(payload.slice().buffer)
    const sent = workers.map(({ worker }) => published.get(worker) ?? [])
    return { logits, sent, workers }
  }

  for (const strategy of ['chain', 'ring'] as const)
    for (const { what, wires, tolerance } of [
      { what: 'f16', wires: { prefix: all('f16'), handoff: all('f16') }, tolerance: F16_TOLERANCE },
      { what: 'int8', wires: { prefix: all('int8'), handoff: all('int8') }, tolerance: INT8_TOLERANCE },
      {
        what: 'int8 to later workers and f16 to the decode node',
        wires: { prefix: all('int8'), handoff: all('f16') },
        tolerance: INT8_TOLERANCE,
      },
      {
        what: 'another precision from every worker',
        wires: { prefix: ['int8', 'f16', 'f32'], handoff: ['f16', 'f32', 'int8'] } as const,
        tolerance: INT8_TOLERANCE,
      },
    ])
      it(`answers within the error of ${what} by a ${strategy}`, async () => {
        const exact = await run('solo', { prefix: all('f32'), handoff: all('f32') })
        const { logits, sent, workers } = await run(strategy, wires)
        const error = maxAbsDifference(logits, exact.logits)
        assert.ok(error <= tolerance, `${error}`)
        assert.ok(error > 2e-5, 'nothing was rounded')

        for (const [rank, events] of sent.entries()) {
          const { spans, prefixWire, handoffWire } = workers[rank]!
          const blocks = spans.reduce((sum, { start, end }) => sum + Math.ceil((end - start) / BLOCK_TOKENS), 0)
          const followed = strategy === 'ring' || rank + 1 < WORKERS
          const twice = followed && prefixWire !== handoffWire
          assert.equal(events.length, blocks * (twice ? 2 * LAYERS - 1 : LAYERS))
          for (const { layer, dtype, uses } of events) {
            const shared = followed && layer < LAYERS - 1
            assert.ok(shared || !uses.includes('prefix'))
            for (const use of uses) assert.equal(dtype, use === 'prefix' ? prefixWire : handoffWire)
          }
        }
      })

  it('sends fewer bytes the narrower the wire', async () => {
    const bytes = []
    for (const wire of WIRES) {
      const { sent } = await run('chain', { prefix: all(wire), handoff: all(wire) })
      bytes.push(sent.flat().reduce((sum, { byteLength }) => sum + byteLength, 0))
    }
    const tokens = ids.length - 1
    const { headDim, kvHeads } = { headDim: 16, kvHeads: 2 }
    assert.deepEqual(
      bytes,
      [4 * headDim, 2 * headDim, headDim + 4].map((perHead) => LAYERS * tokens * 2 * kvHeads * perHead),
    )
  })
})
