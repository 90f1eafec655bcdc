import assert from 'node:assert/strict'
import { test } from 'node:test'
import fc from 'fast-check'
import {
  headSeconds,
  layerSeconds,
  mixSeconds,
  prefillSeconds,
  prefixAttentionSeconds,
  projectSeconds,
  spanSeconds,
  tokensPerSecond,
} from '../../../coordinator/planning/cost.ts'
import { anyCost, flopCost, LLAMA_31_8B, LLAMA_32_1B, QWEN_25_HALF_B, SEEDED } from './support.ts'

const near = (actual: number, expected: number, relative = 1e-9) =>
  assert.ok(Math.abs(actual - expected) <= relative * Math.abs(expected) + 1e-15, `${actual} is not ${expected}`)

test('a span costs overhead, linear part and its part of the causal triangle', () => {
  near(spanSeconds({ o: 0.5, a: 0.01, b: 0.001 }, { start: 0, end: 10 }), 0.5 + 0.1 + 0.05)
  near(spanSeconds({ o: 0.5, a: 0.01, b: 0.001 }, { start: 100, end: 110 }), 0.5 + 0.1 + 1.05)
})

test('cutting a span in two costs one overhead more and nothing else', () => {
  const middle = fc.integer({ min: 1, max: 9999 })
  fc.assert(
    fc.property(anyCost, middle, (cost, cut) => {
      const whole = spanSeconds(cost, { start: 0, end: 10_000 })
      const parts = layerSeconds(cost, [
        { start: 0, end: cut },
        { start: cut, end: 10_000 },
      ])
      near(parts, whole + cost.o)
    }),
    SEEDED,
  )
})

test('a mirrored pair of width h costs h L pairs wherever it sits', () => {
  for (const start of [0, 100, 400])
    near(
      layerSeconds({ o: 0, a: 0, b: 1 }, [
        { start, end: start + 50 },
        { start: 1000 - start - 50, end: 1000 - start },
      ]),
      50 * 1000,
    )
})

test('the last layer costs its projection alone', () => {
  const cost = flopCost(LLAMA_31_8B, 10e12, 1e-4)
  const spans = [{ start: 0, end: 32_768 }]
  const last = projectSeconds(cost, spans, LLAMA_31_8B)
  near(prefillSeconds(cost, spans, LLAMA_31_8B), 31 * layerSeconds(cost, spans) + last)
  assert.ok(last < 0.12 * layerSeconds(cost, spans), 'q, k and v are the small part of a layer')
})

test('seconds of a whole prompt on one 10 TFLOP/s worker are those of the research', () => {
  const alone = (shape: typeof LLAMA_31_8B, tokens: number) =>
    shape.layers * spanSeconds(flopCost(shape, 10e12), { start: 0, end: tokens })
  near(alone(LLAMA_31_8B, 32_768), 73.9, 0.01)
  near(alone(LLAMA_31_8B, 131_072), 633, 0.01)
  near(alone(LLAMA_32_1B, 32_768), 13.4, 0.01)
  near(alone(QWEN_25_HALF_B, 131_072), 83.3, 0.01)
})

test('projection, attention and the rest make up a layer', () => {
  const cost = { o: 1e-3, a: 1e-5, b: 1e-9 }
  const span = { start: 3000, end: 5000 }
  const own = cost.b * 2000 * 1000
  const parts = projectSeconds(cost, [span], LLAMA_31_8B) + mixSeconds(cost, 2000, LLAMA_31_8B)
  near(parts + own + prefixAttentionSeconds(cost, [span]), spanSeconds(cost, span))
  near(prefixAttentionSeconds(cost, [span]), cost.b * 2000 * 3000)
})

test('a mirrored pair meets all but its own keys in others', () => {
  const spans = [
    { start: 0, end: 100 },
    { start: 900, end: 1000 },
  ]
  near(prefixAttentionSeconds({ o: 0, a: 0, b: 1 }, spans), 100 * 800)
})

test('the head costs as its weights compare to those of a layer', () => {
  const { vocab, hidden, heads, kvHeads, headDim, ffn } = LLAMA_31_8B
  const layer = 2 * hidden * headDim * (heads + kvHeads) + 3 * hidden * ffn
  near(headSeconds({ o: 0, a: 1, b: 0 }, LLAMA_31_8B), (vocab * hidden) / layer)
})

test('the speed shown is inverse to the cost', () => {
  const slow = tokensPerSecond(flopCost(LLAMA_31_8B, 1e12), 32)
  near(tokensPerSecond(flopCost(LLAMA_31_8B, 4e12), 32), 4 * slow)
  assert.ok(slow > 65 && slow < 75, `${slow} tokens per second, 1e12 FLOP/s over 14 GFLOP per token`)
  assert.equal(tokensPerSecond({ o: 0, a: 0, b: 0 }, 32), 0)
})
