import assert from 'node:assert/strict'
import { describe, it } from 'node:test'
import fc from 'fast-check'
import { planPrefill } from '../../../coordinator/planning/plan-prefill.ts'
import { sharedSpans } from '../../../coordinator/planning/shares.ts'
import { spanTokens } from '../../../shared/plan.ts'
import { decodeNode, equalWorkers, flopCost, LLAMA_32_1B } from './support.ts'

const span = (start: number, end: number) => ({ start, end })

describe('spans by given shares', () => {
  it('cuts a chain in proportion, in order', () => {
    assert.deepEqual(sharedSpans('chain', [1, 1], 9), [[span(0, 5)], [span(5, 9)]])
    assert.deepEqual(sharedSpans('chain', [3, 1], 8), [[span(0, 6)], [span(6, 8)]])
  })

  it('mirrors a ring, whose innermost spans are one', () => {
    assert.deepEqual(sharedSpans('ring', [1, 1], 8), [[span(0, 2), span(6, 8)], [span(2, 6)]])
    assert.deepEqual(sharedSpans('solo', [2], 7), [[span(0, 7)]])
  })

  it('leaves out who gets less than a token', () => {
    assert.deepEqual(sharedSpans('chain', [1, 1000], 4), [[], [span(0, 4)]])
    assert.deepEqual(sharedSpans('ring', [1000, 1], 4), [[span(0, 4)], []])
  })

  it('covers every token once', () => {
    const strategy = fc.constantFrom('chain' as const, 'ring' as const)
    const shares = fc.array(fc.double({ min: 0.001, max: 1000, noNaN: true }), { minLength: 1, maxLength: 9 })
    fc.assert(
      fc.property(strategy, shares, fc.integer({ min: 1, max: 5000 }), (kind, given, tokens) => {
        const spans = sharedSpans(kind, given, tokens)
        assert.equal(spans.length, given.length)
        const all = spans.flat().sort((x, y) => x.start - y.start)
        assert.equal(spanTokens(all), tokens)
        assert.ok(all.every(({ start }, i) => start === (all[i - 1]?.end ?? 0)))
      }),
    )
  })

  it('are what a plan has when a client insists, and what its prediction is for', () => {
    const cost = flopCost(LLAMA_32_1B, 1e12)
    const workers = equalWorkers(2, cost)
    const decode = [decodeNode()]
    const facts = {
      shape: LLAMA_32_1B,
      promptTokens: 4001,
      workers,
      decode,
      links: new Map(),
      narrowestWire: 'f32' as const,
    }
    const even = planPrefill(facts, { strategy: 'chain', workers: 2, shares: [1, 1] }).chosen
    assert.deepEqual(
      even.workers.map((worker) => worker.spans),
      [[span(0, 2000)], [span(2000, 4000)]],
    )
    const balanced = planPrefill(facts, { strategy: 'chain', workers: 2 }).chosen
    assert.ok(balanced.predictedTtftSeconds < even.predictedTtftSeconds)
  })
})
