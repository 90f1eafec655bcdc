import assert from 'node:assert/strict'
import { describe, test } from 'node:test'
import fc from 'fast-check'
import { layerSeconds, spanSeconds } from '../../../coordinator/planning/cost.ts'
import * as partition from '../../../coordinator/planning/partition.ts'
import type { ModelShape } from '../../../shared/model-shape.ts'
import { type Span, spanTokens } from '../../../shared/plan.ts'
import type { Cost } from '../../../shared/protocol/control.ts'
import {
  anyCost,
  flopCost,
  LLAMA_7B,
  LLAMA_31_8B,
  LLAMA_32_1B,
  manyCosts,
  promptLength,
  QWEN_25_HALF_B,
  SEEDED,
} from './support.ts'

/** Without memory limits there always is a split. */
const chainSpans = (lanes: readonly partition.Lane[], tokens: number) => partition.chainSpans(lanes, tokens)!
const chainBoundaries = (lanes: readonly partition.Lane[], tokens: number) => partition.chainBoundaries(lanes, tokens)!
const ringSpans = (lanes: readonly partition.Lane[], tokens: number) => partition.ringSpans(lanes, tokens)!

const lanes = (costs: readonly Cost[]) => costs.map((cost) => ({ cost }))
const equal = (count: number, cost: Cost) => Array.from({ length: count }, () => cost)
const slowest = (costs: readonly Cost[], spans: readonly Span[][]) =>
  Math.max(...costs.map((cost, i) => layerSeconds(cost, spans[i]!)))

/** The most that one token can cost any of these workers. */
const oneToken = (costs: readonly Cost[], tokens: number) => Math.max(...costs.map(({ a, b }) => a + b * tokens))

function assertCoveredOnce(spans: readonly Span[][], tokens: number) {
  for (const own of spans) {
    own.forEach((span, i) => {
      assert.ok(Number.isInteger(span.start) && Number.isInteger(span.end) && span.end > span.start)
      assert.ok(i === 0 || span.start > own[i - 1]!.end, 'ascending, and touching spans are one')
    })
  }
  const inOrder = spans.flat().toSorted((x, y) => x.start - y.start)
  inOrder.forEach((span, i) => {
    assert.equal(span.start, inOrder[i - 1]?.end ?? 0)
  })
  assert.equal(inOrder.at(-1)?.end, tokens)
}

/** Section 6.1 of the research, as written there. */
function closedForm(a: number, b: number, speeds: readonly number[], tokens: number): number[] {
  const total = speeds.reduce((sum, speed) => sum + speed, 0)
  let cumulative = 0
  return speeds.map((speed) => {
    cumulative += speed
    return (Math.sqrt(a * a + (cumulative / total) * ((a + b * tokens) ** 2 - a * a)) - a) / b
  })
}

describe('arithmetic alone', () => {
  const isEnough = (costs: readonly Cost[], tokens: number, period: number) =>
    partition.isEnoughArithmetic(lanes(costs), tokens, period)

  test('is enough wherever some order of these lanes is', () => {
    fc.assert(
      fc.property(manyCosts, promptLength, fc.double({ min: 0.5, max: 2, noNaN: true }), (costs, tokens, scale) => {
        const period = scale * partition.chainPeriod(lanes(costs), tokens)!
        if (partition.isEnoughForChain(lanes(costs), tokens, period)) assert.ok(isEnough(costs, tokens, period))
      }),
      SEEDED,
    )
  })

  test('says exactly how long lanes of one ratio take', () => {
    const costs = [1e12, 3e12, 7e12].map((flops) => flopCost(LLAMA_31_8B, flops, 1e-4))
    const period = partition.chainPeriod(lanes(costs), 8192)!
    assert.ok(isEnough(costs, 8192, period))
    assert.ok(!isEnough(costs, 8192, period * (1 - 1e-6)))
  })

  test('counts no more tokens of a lane than it may have', () => {
    const [cost, tail] = [flopCost(LLAMA_31_8B, 1e12), flopCost(LLAMA_31_8B, 1e12)]
    const period = partition.chainPeriod(lanes([cost]), 8192)!
    const bounded = (most: number) =>
      partition.isEnoughArithmetic([{ cost }, { cost: tail, most }], 8192, period * 0.999)
    assert.ok(bounded(8192))
    assert.ok(!bounded(1))
  })
})

describe('chain', () => {
  test('is not undone by rounding where a link is busy all the time', () => {
    for (let tokens = 2; tokens <= 100; tokens++)
      for (const ingressSeconds of [1e-5, 7e-5, 1e-4, 3e-4, 1e-3]) {
        const worker = { cost: { o: 0, a: 1e-7, b: 0 } }
        const tail = { cost: { o: 0, a: 0, b: 0 }, ingressSeconds, least: 1, most: 1 }
        assert.deepEqual(chainBoundaries([worker, tail], tokens), [tokens - 1, tokens])
      }
  })

  const balanced: [string, ModelShape, number, number[]][] = [
    ['Llama 7B, 4k', LLAMA_7B, 4096, [52, 48]],
    ['Llama 7B, 4k', LLAMA_7B, 4096, [26, 25, 25, 24]],
    ['Llama 7B, 16k', LLAMA_7B, 16_384, [56, 44]],
    ['Llama 7B, 16k', LLAMA_7B, 16_384, [30, 26, 23, 21]],
    ['Llama-3.2-1B, 32k', LLAMA_32_1B, 32_768, [62, 38]],
    ['Llama-3.2-1B, 32k', LLAMA_32_1B, 32_768, [37, 25, 20, 17]],
    ['Llama-3.1-8B, 32k', LLAMA_31_8B, 32_768, [59, 41]],
    ['Llama-3.1-8B, 32k', LLAMA_31_8B, 32_768, [34, 26, 22, 19]],
    ['Llama-3.1-8B, 128k', LLAMA_31_8B, 131_072, [66, 34]],
    ['Llama-3.1-8B, 128k', LLAMA_31_8B, 131_072, [42, 24, 18, 16]],
    ['Qwen2.5-0.5B, 128k', QWEN_25_HALF_B, 131_072, [69, 31]],
    ['Qwen2.5-0.5B, 128k', QWEN_25_HALF_B, 131_072, [47, 22, 17, 14]],
  ]
  for (const [name, shape, tokens, percent] of balanced)
    test(`${name}: ${percent.join('/')} as in the research`, () => {
      const spans = chainSpans(lanes(equal(percent.length, flopCost(shape, 10e12))), tokens)
      spans.forEach((own, i) => {
        // the research rounded 33.49 to 33.5 and that to 34
        assert.ok(Math.abs((100 * spanTokens(own)) / tokens - percent[i]!) <= 0.55, `worker ${i}: ${spanTokens(own)}`)
      })
    })

  const headAndTail: [string, ModelShape, number, number, number][] = [
    ['Llama 7B, 4k', LLAMA_7B, 4096, 13.4, 11.7],
    ['Llama 7B, 16k', LLAMA_7B, 16_384, 15.8, 10.2],
    ['Llama-3.2-1B, 32k', LLAMA_32_1B, 32_768, 21.3, 8.4],
    ['Llama-3.1-8B, 32k', LLAMA_31_8B, 32_768, 18.2, 9.3],
    ['Llama-3.1-8B, 128k', LLAMA_31_8B, 131_072, 26.3, 7.5],
    ['Qwen2.5-0.5B, 128k', QWEN_25_HALF_B, 131_072, 31.7, 6.8],
  ]
  for (const [name, shape, tokens, head, tail] of headAndTail)
    test(`${name} over 8 workers: ${head} ... ${tail} % as in the research`, () => {
      const spans = chainSpans(lanes(equal(8, flopCost(shape, 10e12))), tokens)
      const percent = spans.map((own) => (100 * spanTokens(own)) / tokens)
      assert.equal(percent[0]!.toFixed(1), head.toFixed(1))
      assert.equal(percent[7]!.toFixed(1), tail.toFixed(1))
    })

  test('pure attention: boundaries at L sqrt(i/N)', () => {
    const ends = chainBoundaries(lanes(equal(4, { o: 0, a: 0, b: 1e-9 })), 100_000)
    ends.forEach((end, i) => {
      assert.ok(Math.abs(end - 100_000 * Math.sqrt((i + 1) / 4)) < 1e-3)
    })
  })

  test('without attention cost tokens go by speed', () => {
    const costs = [1, 2, 4].map((a) => ({ o: 0, a: a * 1e-5, b: 0 }))
    assert.deepEqual(chainSpans(lanes(costs), 700), [
      [{ start: 0, end: 400 }],
      [{ start: 400, end: 600 }],
      [{ start: 600, end: 700 }],
    ])
  })

  test('is the closed form when a : b is common', () => {
    const speeds = fc.array(fc.double({ min: 0.05, max: 20, noNaN: true }), { minLength: 1, maxLength: 12 })
    const ratio = fc.double({ min: 1e-7, max: 1e-1, noNaN: true })
    fc.assert(
      fc.property(speeds, ratio, promptLength, (speeds, ratio, tokens) => {
        const ends = chainBoundaries(lanes(speeds.map((s) => ({ o: 0, a: 1e-5 / s, b: (1e-5 * ratio) / s }))), tokens)
        closedForm(1, ratio, speeds, tokens).forEach((expected, i) => {
          assert.ok(Math.abs(ends[i]! - expected) < 1e-6 * tokens, `boundary ${i}: ${ends[i]}, not ${expected}`)
        })
      }),
      SEEDED,
    )
  })

  test('covers every token once, whatever the costs', () => {
    const costs = fc.array(anyCost, { minLength: 1, maxLength: 16 })
    fc.assert(
      fc.property(costs, promptLength, (costs, tokens) => assertCoveredOnce(chainSpans(lanes(costs), tokens), tokens)),
      SEEDED,
    )
  })

  test('all that take part finish together, to the token', () => {
    fc.assert(
      fc.property(manyCosts, promptLength, (costs, tokens) => {
        const ends = chainBoundaries(lanes(costs), tokens)
        const rounded = chainSpans(lanes(costs), tokens)
        const parts = costs
          .map((cost, i) => ({ cost, start: ends[i - 1] ?? 0, end: ends[i]!, rounded: rounded[i]! }))
          .filter(({ start, end }) => end - start >= 1)
        const period = Math.max(...parts.map((part) => spanSeconds(part.cost, part)))
        for (const part of parts) {
          assert.ok(period - spanSeconds(part.cost, part) < 1e-6 * period, `${period} is not met before rounding`)
          const error = Math.abs(layerSeconds(part.cost, part.rounded) - period)
          assert.ok(error <= 1.000001 * oneToken([part.cost], tokens), `${period} is missed by ${error}`)
        }
      }),
      SEEDED,
    )
  })

  test('no boundary can be moved for a gain of more than a token', () => {
    fc.assert(
      fc.property(manyCosts, promptLength, fc.integer({ min: 1, max: 2000 }), (costs, tokens, step) => {
        const ends = chainSpans(lanes(costs), tokens).map((own) => own[0]?.end)
        if (ends.includes(undefined)) return
        const period = (ends: (number | undefined)[]) =>
          Math.max(...costs.map((cost, i) => spanSeconds(cost, { start: ends[i - 1] ?? 0, end: ends[i]! })))
        for (const moved of [-step, step])
          for (let i = 0; i < ends.length - 1; i++) {
            const other = ends.with(i, ends[i]! + moved)
            if (other[i]! <= (other[i - 1] ?? 0) || other[i]! >= other[i + 1]!) continue
            assert.ok(period(other) >= period(ends) - 1.000001 * oneToken(costs, tokens))
          }
      }),
      SEEDED,
    )
  })

  test('later workers of equal speed get fewer tokens', () => {
    fc.assert(
      fc.property(fc.double({ min: 1e-10, max: 1e-7, noNaN: true }), fc.integer({ min: 2, max: 8 }), (b, count) => {
        const own = chainSpans(lanes(equal(count, { o: 1e-3, a: 1e-5, b })), 100_000).map(spanTokens)
        for (let i = 1; i < count; i++) assert.ok(own[i]! < own[i - 1]!, own.join(' '))
      }),
      SEEDED,
    )
  })

  test('a worker whose overhead alone exceeds the period gets nothing', () => {
    const quick = { o: 1e-4, a: 1e-5, b: 1e-10 }
    assert.deepEqual(chainSpans(lanes([quick, { ...quick, o: 10 }, quick]), 1000), [
      [{ start: 0, end: 501 }],
      [],
      [{ start: 501, end: 1000 }],
    ])
  })

  test('a worker that costs nothing takes all', () => {
    const [free, linear, square] = [
      { o: 0, a: 0, b: 0 },
      { o: 0, a: 1e-5, b: 0 },
      { o: 0, a: 0, b: 1e-9 },
    ]
    const all = [{ start: 0, end: 1000 }]
    assert.deepEqual(chainSpans(lanes([free, linear, square]), 1000), [all, [], []])
    assert.deepEqual(chainSpans(lanes([linear, free, square]), 1000), [[], all, []])
    assert.deepEqual(ringSpans(lanes([free, linear, square]), 1000), [all, [], []])
  })

  test('fewer tokens than workers leave workers out', () => {
    const spans = chainSpans(lanes(equal(8, { o: 1e-4, a: 1e-5, b: 0 })), 3)
    assertCoveredOnce(spans, 3)
    assert.equal(spans.flat().length, 3)
  })

  test('a link that binds moves tokens to the tail: 73/27 over three workers on 1 Gbit/s, as in the research', () => {
    const cost = flopCost(LLAMA_31_8B, 10e12)
    const bytesPerTokenLayer = 4096
    const lane = { cost, prefixSeconds: bytesPerTokenLayer / 125e6 }
    const spans = chainSpans([...Array(7).fill(lane), { cost }], 32_768)
    const used = spans.filter((own) => own.length > 0)
    const percent = used.map((own) => Math.round((100 * spanTokens(own)) / 32_768))
    // the link sets where the last begins; the two before it have time to spare, so any 73 % do
    assert.equal(percent.length, 3)
    assert.equal(percent[2], 27)
    const slowestLayer = Math.max(...used.map((own) => layerSeconds(cost, own)))
    assert.equal((32 * slowestLayer).toFixed(1), '25.2')
  })
})

describe('memory', () => {
  const cost = flopCost(LLAMA_31_8B, 10e12)

  test('caps a span, and the others take the rest', () => {
    const room = { budget: 1000, own: 2, before: 0 }
    const [first, second] = chainSpans([{ cost, room }, { cost }], 10_000)
    assert.deepEqual(first, [{ start: 0, end: 500 }])
    assert.deepEqual(second, [{ start: 500, end: 10_000 }])
  })

  test('counts the prefix that waits for its turn', () => {
    const room = { budget: 6000, own: 2, before: 1 }
    const [first, second] = chainSpans([{ cost }, { cost, room }], 5000)
    assert.deepEqual(second, [{ start: 4000, end: 5000 }])
    assert.deepEqual(first, [{ start: 0, end: 4000 }])
  })

  test('that is too small for everybody leaves no split', () => {
    const lane = { cost, room: { budget: 100, own: 2, before: 1 } }
    assert.equal(partition.chainSpans([lane, lane], 10_000), undefined)
    assert.equal(partition.ringSpans([lane, lane], 10_000), undefined)
  })

  test('caps a ring piece too', () => {
    const room = { budget: 1000, own: 2, before: 0 }
    assert.deepEqual(ringSpans([{ cost, room }, { cost }], 10_000).map(spanTokens), [500, 9500])
  })
})

describe('ring', () => {
  test('every worker gets a piece and its mirror image; the innermost two are one', () => {
    assert.deepEqual(ringSpans(lanes(equal(3, { o: 0, a: 1e-5, b: 1e-9 })), 600), [
      [
        { start: 0, end: 100 },
        { start: 500, end: 600 },
      ],
      [
        { start: 100, end: 200 },
        { start: 400, end: 500 },
      ],
      [{ start: 200, end: 400 }],
    ])
  })

  test('covers every token once, whatever the costs', () => {
    const costs = fc.array(anyCost, { minLength: 1, maxLength: 16 })
    fc.assert(
      fc.property(costs, promptLength, (costs, tokens) => assertCoveredOnce(ringSpans(lanes(costs), tokens), tokens)),
      SEEDED,
    )
  })

  test('spans lie as mirror images', () => {
    fc.assert(
      fc.property(manyCosts, promptLength, (costs, tokens) => {
        for (const own of ringSpans(lanes(costs), tokens)) {
          const mirrored = own.map(({ start, end }) => ({ start: tokens - end, end: tokens - start }))
          assert.deepEqual(mirrored.toReversed(), own)
        }
      }),
      SEEDED,
    )
  })

  test('widths go by speed', () => {
    const costs = [1, 2, 4].map((slow) => ({ o: 0, a: slow * 1e-5, b: slow * 1e-9 }))
    assert.deepEqual(ringSpans(lanes(costs), 7000).map(spanTokens), [4000, 2000, 1000])
  })

  test('all that take part finish together, to two tokens', () => {
    fc.assert(
      fc.property(manyCosts, promptLength, (costs, tokens) => {
        const spans = ringSpans(lanes(costs), tokens)
        if (spans.some((own, i) => own.length !== (i < spans.length - 1 ? 2 : 1))) return
        const period = slowest(costs, spans)
        costs.forEach((cost, i) => {
          const behind = period - layerSeconds(cost, spans[i]!)
          assert.ok(
            behind <= 4 * oneToken(costs, tokens) + 1e-6 * period,
            `worker ${i} is ${behind} of ${period} early`,
          )
        })
      }),
      SEEDED,
    )
  })

  test('a worker whose overhead alone exceeds the period gets nothing', () => {
    const quick = { o: 1e-4, a: 1e-5, b: 1e-10 }
    const spans = ringSpans(lanes([quick, quick, { ...quick, o: 10 }]), 1001)
    assertCoveredOnce(spans, 1001)
    assert.deepEqual(spans[2], [])
  })

  test('fewer tokens than workers leave workers out', () => {
    for (const tokens of [1, 2, 3, 5]) {
      const spans = ringSpans(lanes(equal(8, { o: 1e-4, a: 1e-5, b: 0 })), tokens)
      assertCoveredOnce(spans, tokens)
    }
  })
})

test('the same costs give the same spans', () => {
  fc.assert(
    fc.property(manyCosts, promptLength, (costs, tokens) => {
      assert.deepEqual(chainSpans(lanes(costs), tokens), chainSpans(lanes(structuredClone(costs)), tokens))
      assert.deepEqual(ringSpans(lanes(costs), tokens), ringSpans(lanes(structuredClone(costs)), tokens))
    }),
    SEEDED,
  )
})
