import assert from 'node:assert/strict'
import { describe, it } from 'node:test'
import fc from 'fast-check'
import type { Sampling } from '../../../shared/protocol/run-types.ts'
import { philox, uniform } from '../../../worker/decode/philox.ts'
import { argmax, logprobsOf, logSumExp, sample } from '../../../worker/decode/sampling.ts'

const greedy: Sampling = { temperature: 0, topP: 1, topK: 0, seed: 0 }
const logits = fc
  .array(fc.float({ min: -20, max: 20, noNaN: true }), { minLength: 2, maxLength: 60 })
  .map((l) => Float32Array.from(l))

describe('Philox4x32-10', () => {
  // The known answers that its authors publish with Random123.
  for (const { counter, key, words } of [
    { counter: [0, 0, 0, 0], key: [0, 0], words: '6627e8d5 e169c58d bc57ac4c 9b00dbd8' },
    {
      counter: Array(4).fill(0xffffffff),
      key: Array(2).fill(0xffffffff),
      words: '408f276d 41c83b0e a20bc7c6 6d5451fd',
    },
    {
      counter: [0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344],
      key: [0xa4093822, 0x299f31d0],
      words: 'd16cfe09 94fdcceb 5001e420 24126ea1',
    },
  ]) {
    it(`gives ${words}`, () => {
      const found = philox(counter as [number, number, number, number], key as [number, number])
      assert.equal(found.map((word) => word.toString(16).padStart(8, '0')).join(' '), words)
    })
  }

  it('is even: of 10,000 draws each tenth has about a thousand', () => {
    const tenths = Array(10).fill(0)
    for (let position = 0; position < 10_000; position++) tenths[Math.floor(uniform(7, position) * 10)]++
    for (const count of tenths) assert.ok(count > 850 && count < 1150, tenths.join(' '))
  })
})

describe('sampling', () => {
  it('is greedy at temperature 0, with the smallest id among equals', () => {
    assert.equal(sample(Float32Array.of(1, 5, 5, 2), greedy, 3), 1)
  })

  it('takes one of the k largest logits', () => {
    fc.assert(
      fc.property(logits, fc.integer({ min: 1, max: 5 }), fc.nat(1000), (l, topK, position) => {
        const token = sample(l, { temperature: 1, topP: 1, topK, seed: 1 }, position)
        const larger = l.filter((logit) => logit > l[token]!).length
        return larger < topK
      }),
      { seed: 1 },
    )
  })

  it('keeps the fewest tokens whose probability reaches top-p', () => {
    fc.assert(
      fc.property(logits, fc.double({ min: 0.05, max: 0.95, noNaN: true }), fc.nat(1000), (l, topP, position) => {
        const token = sample(l, { temperature: 1, topP, topK: 0, seed: 2 }, position)
        const norm = logSumExp(l)
        const above = l.filter((logit) => logit > l[token]!).reduce((sum, logit) => sum + Math.exp(logit - norm), 0)
        return above < topP + 1e-6
      }),
      { seed: 2 },
    )
  })

  it('follows the distribution', () => {
    const l = Float32Array.of(Math.log(0.5), Math.log(0.3), Math.log(0.2))
    const counts = [0, 0, 0]
    for (let position = 0; position < 20_000; position++)
      counts[sample(l, { temperature: 1, topP: 1, topK: 0, seed: 9 }, position)]!++
    for (const [i, share] of [0.5, 0.3, 0.2].entries()) assert.ok(Math.abs(counts[i]! / 20_000 - share) < 0.02)
  })

  it('depends on seed and position alone', () => {
    const flat = new Float32Array(50)
    const hot: Sampling = { temperature: 1, topP: 1, topK: 0, seed: 4 }
    const draws = Array.from({ length: 20 }, (_, position) => sample(flat, hot, position))
    assert.deepEqual(Array.from({ length: 20 }, (_, i) => sample(flat, hot, 19 - i)).reverse(), draws)
    assert.ok(new Set(draws).size > 5)
  })
})

describe('log-probabilities', () => {
  it('are normalised, and the top ones are sorted', () => {
    fc.assert(
      fc.property(logits, fc.nat(20), (l, count) => {
        const { logprob, top } = logprobsOf(l, argmax(l), count)
        assert.equal(top.length, Math.min(count, l.length))
        assert.ok(top.every((t, i) => i === 0 || t.logprob <= top[i - 1]!.logprob))
        const sum = logprobsOf(l, 0, l.length).top.reduce((s, t) => s + Math.exp(t.logprob), 0)
        assert.ok(Math.abs(sum - 1) < 1e-6)
        assert.ok(logprob <= 1e-9)
      }),
      { seed: 3 },
    )
  })
})
