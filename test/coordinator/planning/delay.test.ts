import assert from 'node:assert/strict'
import { describe, it } from 'node:test'
import fc from 'fast-check'
import type { PlanFacts } from '../../../coordinator/planning/facts.ts'
import { planPrefill } from '../../../coordinator/planning/plan-prefill.ts'
import { spanTokens } from '../../../shared/plan.ts'
import {
  decodeNode,
  equalWorkers,
  FAST,
  flopCost,
  LLAMA_31_8B,
  LLAMA_32_1B,
  linksBetween,
  named,
  SEEDED,
} from './support.ts'

/** Sixteen servers, each of which takes longer to begin than a short prompt is worth. */
const server = flopCost(LLAMA_32_1B, 1e12, 1e-2)
const workers = equalWorkers(16, server)
const facts = (behind: number, rest: Partial<PlanFacts> = {}): PlanFacts => {
  const all = rest.workers ?? workers
  const links = linksBetween([...all, decodeNode()], () => FAST)
  const wanted = {
    shape: LLAMA_32_1B,
    promptTokens: 2048,
    decode: [decodeNode()],
    narrowestWire: 'f32',
    behind,
  } as const
  return { ...wanted, workers: all, links, ...rest }
}
const chosen = (behind: number, rest: Partial<PlanFacts> = {}) => planPrefill(facts(behind, rest)).chosen

describe('a plan for a prompt that others wait behind', () => {
  it('leaves them workers, the more the more they are', () => {
    const sizes = [0, 4, 16, 64, 1000].map((behind) => chosen(behind).workers.length)
    assert.deepEqual(
      sizes,
      sizes.toSorted((x, y) => y - x),
    )
    assert.ok(sizes[0]! > 4 && sizes[2]! < sizes[0]! && sizes[4] === 1, String(sizes))
  })

  it('is the fastest where nobody waits, and where splitting loses nothing', () => {
    const { candidates } = planPrefill(facts(0))
    const least = Math.min(...candidates.map(({ predictedTtftSeconds }) => predictedTtftSeconds))
    assert.equal(chosen(0).predictedTtftSeconds, least)
    const free = { shape: LLAMA_31_8B, promptTokens: 200_000, workers: equalWorkers(4, flopCost(LLAMA_31_8B, 1e12)) }
    assert.equal(chosen(8, free).workers.length, 4)
  })

  it('is the same whether all workers hold a run already or none', () => {
    const busy = workers.map((worker) => ({
      ...worker,
      runs: 1,
      cost: { o: 2 * server.o, a: 2 * server.a, b: 2 * server.b },
    }))
    for (const behind of [4, 16, 64])
      assert.equal(chosen(behind, { workers: busy }).workers.length, chosen(behind).workers.length)
  })

  it('knows that workers which it leaves to others slow it down as its own would', () => {
    const [host, times] = ['one for all', (by: number) => ({ o: by * server.o, a: by * server.a, b: by * server.b })]
    const two = equalWorkers(2, server).map((worker) => ({ ...worker, host, sharedCost: times(1.3) }))
    const solo = (behind: number) => {
      const { candidates } = planPrefill(facts(behind, { workers: two }))
      return candidates.find(({ workers: of, prefillTokens }) => of.length === 1 && prefillTokens === 2047)!
    }
    assert.ok(solo(5).predictedTtftSeconds > 1.25 * solo(0).predictedTtftSeconds)
  })

  it('takes workers that are idle', () => {
    const half = workers.map((worker, i) =>
      i % 2 === 0 ? worker : named(worker.id, { o: 2 * server.o, a: 2 * server.a, b: 2 * server.b }, { runs: 1 }),
    )
    const taken = chosen(16, { workers: half }).workers.map(({ worker }) => Number(worker.slice(1)))
    assert.deepEqual(
      taken.filter((number) => number % 2 === 0),
      [],
      `of w1, w3, ... only: ${taken}`,
    )
  })

  it('is complete, whatever waits', () => {
    fc.assert(
      fc.property(fc.integer({ min: 0, max: 1e6 }), fc.integer({ min: 2, max: 50_000 }), (behind, promptTokens) => {
        const plan = chosen(behind, { promptTokens })
        const tokens = plan.workers.reduce((sum, { spans }) => sum + spanTokens(spans), 0)
        assert.equal(tokens, plan.prefillTokens)
        assert.ok(plan.predictedTtftSeconds > 0)
      }),
      { ...SEEDED, numRuns: 30 },
    )
  })
})
