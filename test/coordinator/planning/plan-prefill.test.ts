import assert from 'node:assert/strict'
import { describe, test } from 'node:test'
import fc from 'fast-check'
import type { DecodeFacts, PlanFacts } from '../../../coordinator/planning/facts.ts'
import { type PlanAsk, planPrefill } from '../../../coordinator/planning/plan-prefill.ts'
import type { ErrorCode, HeadraceError } from '../../../shared/errors.ts'
import { asWorkerId } from '../../../shared/ids.ts'
import { MAX_BLOCK_BYTES } from '../../../shared/link/link.ts'
import { kvBytesPerTokenLayer } from '../../../shared/model-shape.ts'
import { type Plan, STRATEGIES, spanTokens } from '../../../shared/plan.ts'
import {
  decodeNode,
  equalWorkers,
  FAST,
  flopCost,
  LLAMA_31_8B,
  LLAMA_32_1B,
  linksBetween,
  named,
  positiveCost,
  SEEDED,
} from './support.ts'

/** On 10 Gbit/s, unless links are given. */
const facts = (promptTokens: number, workers: PlanFacts['workers'], rest: Partial<PlanFacts> = {}): PlanFacts => {
  const decode = rest.decode ?? [decodeNode()]
  return {
    shape: LLAMA_31_8B,
    promptTokens,
    workers,
    decode,
    links: linksBetween([...workers, ...decode], () => FAST),
    narrowestWire: 'f32',
    ...rest,
  }
}
const server = flopCost(LLAMA_31_8B, 10e12)
/** All but one are measured; what is known of that one is its way to the coordinator. */
const allBut = (stranger: string, workers: PlanFacts['workers']): Partial<PlanFacts> => ({
  links: linksBetween([...workers.filter(({ id }) => id !== stranger), decodeNode()], () => FAST),
})
const print = ({ strategy, workers }: Plan) => `${strategy} ${workers.map(({ worker }) => worker).join(' ')}`.trim()
const find = (plans: readonly Plan[], strategy: string, size: number) => {
  const found = plans.find((plan) => plan.strategy === strategy && plan.workers.length === size)
  assert.ok(found, `${strategy} of ${size} in ${plans.map(print).join(', ')}`)
  return found
}

function assertCode(code: ErrorCode, message: RegExp, plan: () => unknown) {
  assert.throws(plan, (error: HeadraceError) => error.code === code && message.test(error.message))
}

function assertComplete(plan: Plan) {
  assert.ok(plan.prefillTokens < plan.promptTokens, "the last token is the decode node's")
  const spans = plan.workers.flatMap((worker) => worker.spans).toSorted((x, y) => x.start - y.start)
  spans.forEach((span, i) => {
    assert.equal(span.start, spans[i - 1]?.end ?? 0)
    assert.ok(span.end > span.start)
  })
  assert.equal(spans.at(-1)?.end ?? 0, plan.prefillTokens)
  assert.ok(plan.workers.every((worker) => worker.spans.length > 0 && worker.computeSeconds >= 0))
  assert.equal(new Set(plan.workers.map(({ worker }) => worker)).size, plan.workers.length)
}

function assertDeepFrozen(value: unknown) {
  if (typeof value !== 'object' || value === null) return
  assert.ok(Object.isFrozen(value))
  Object.values(value).forEach(assertDeepFrozen)
}

const anyFacts: fc.Arbitrary<PlanFacts> = fc
  .record({
    promptTokens: fc.oneof(fc.integer({ min: 1, max: 12 }), fc.integer({ min: 13, max: 100_000 })),
    costs: fc.array(fc.tuple(positiveCost, fc.option(fc.double({ min: 1e-5, max: 0.3, noNaN: true }))), {
      minLength: 1,
      maxLength: 9,
    }),
  })
  .map(({ promptTokens, costs }) =>
    facts(
      promptTokens,
      costs.map(([cost, rttSeconds], i) => named(`w${i}`, cost, rttSeconds === null ? {} : { rttSeconds })),
      { links: new Map() },
    ),
  )
const anyStrategy = fc.option(fc.constantFrom(...STRATEGIES), { nil: undefined })

describe('what comes out', () => {
  test('a long prompt takes all equal workers and nearly as many times less', () => {
    const { chosen, candidates } = planPrefill(facts(32_769, equalWorkers(4, server)))
    const solo = find(candidates, 'solo', 1)
    assert.equal(chosen.workers.length, 4)
    assert.ok(Math.abs(solo.predictedTtftSeconds - 73.9) < 3, 'as in the research, but for the last layer')
    const speedUp = solo.predictedTtftSeconds / chosen.predictedTtftSeconds
    assert.ok(speedUp > 3.9 && speedUp < 4, `${speedUp}`)
    assert.equal(chosen.bound, 'compute')
  })

  test('a chain gives the head the most tokens and each of its workers the same time', () => {
    const { workers } = planPrefill(facts(32_769, equalWorkers(4, server)), { strategy: 'chain' }).chosen
    const tokens = workers.map(({ spans }) => spanTokens(spans))
    assert.deepEqual(
      tokens.toSorted((x, y) => y - x),
      tokens,
    )
    const seconds = workers.map(({ computeSeconds }) => computeSeconds)
    assert.ok(Math.max(...seconds) - Math.min(...seconds) < 0.01 * Math.max(...seconds))
  })

  test('candidates are solo on every worker and the best chain and ring of each size, best first', () => {
    const workers = [1, 2, 4].map((slow) => named(`w${slow}`, flopCost(LLAMA_31_8B, 10e12 / slow)))
    const { candidates } = planPrefill(facts(8193, workers))
    assert.deepEqual(candidates.map(print).toSorted(), [
      'chain w1 w2',
      'chain w1 w2 w4',
      'ring w1 w2',
      'ring w1 w2 w4',
      'solo w1',
      'solo w2',
      'solo w4',
    ])
    const seconds = candidates.map((plan) => plan.predictedTtftSeconds)
    assert.deepEqual(
      seconds.toSorted((x, y) => x - y),
      seconds,
    )
  })

  test('a short prompt on distant workers stays on one', () => {
    const workers = equalWorkers(4, server)
    const links = linksBetween([...workers, decodeNode()], () => FAST, 0.2)
    const { chosen } = planPrefill(facts(129, workers, { links }))
    assert.equal(print(chosen), 'solo w1')
    assert.equal(chosen.bound, 'compute')
  })

  test('latency costs a chain once per hop and a ring at every layer', () => {
    const workers = equalWorkers(8, flopCost(LLAMA_32_1B, 10e12))
    const at = (rttSeconds: number, strategy: 'chain' | 'ring') => {
      const links = linksBetween([...workers, decodeNode()], () => 10 * FAST, rttSeconds)
      return planPrefill(facts(32_769, workers, { shape: LLAMA_32_1B, links }), { strategy, workers: 8 }).chosen
    }
    const extra = (strategy: 'chain' | 'ring') =>
      at(0.04, strategy).predictedTtftSeconds - at(0, strategy).predictedTtftSeconds
    assert.ok(
      extra('chain') > 0.02 && extra('chain') < 8 * 0.02,
      `${extra('chain')}: at most each hop and the hand-off`,
    )
    assert.ok(extra('ring') > 15 * 0.02, `${extra('ring')}: more than a hop in all layers but the last`)
    assert.ok(extra('ring') < 15 * 7 * 0.02 + 0.1)
    assert.equal(at(0.04, 'ring').boundBy, 'latency of the ring')
    assert.equal(at(0.04, 'chain').bound, 'compute')
  })

  test('a worker too slow to help is left out', () => {
    const workers = [...equalWorkers(2, server), named('board', { o: 1000, a: 1, b: 0 })]
    const { chosen } = planPrefill(facts(32_769, workers))
    assert.deepEqual(chosen.workers.map(({ worker }) => worker).toSorted(), ['w1', 'w2'])
  })

  test('a distant worker is left out where it costs more than it brings', () => {
    const workers = [...equalWorkers(2, server), named('far', server, { rttSeconds: 60 })]
    const { chosen } = planPrefill(facts(4097, workers, allBut('far', workers)))
    assert.deepEqual(chosen.workers.map(({ worker }) => worker).toSorted(), ['w1', 'w2'])
  })

  test('beyond seven workers the fastest are added one by one', () => {
    const workers = Array.from({ length: 16 }, (_, i) => named(`w${i}`, flopCost(LLAMA_31_8B, 1e12 * (i + 1))))
    const links = linksBetween([...workers, decodeNode()], () => 1000 * FAST)
    const { candidates } = planPrefill(facts(32_769, workers, { links }))
    assert.equal(candidates.length, 16 + 15 + 15)
    assert.equal(print(find(candidates, 'chain', 3)), 'chain w13 w14 w15')
  })

  test('who asks for a split gets one, though the decode node would have done it all sooner', () => {
    const slow = equalWorkers(3, { ...server, o: 1 })
    const decode = [{ ...decodeNode(), cost: server }]
    for (const strategy of ['chain', 'ring'] as const)
      for (const promptTokens of [2, 3, 42]) {
        const { chosen } = planPrefill({ ...facts(promptTokens, slow), decode }, { strategy })
        assert.equal(chosen.strategy, strategy)
        assert.ok(chosen.workers.length > 0)
      }
    assert.deepEqual(planPrefill({ ...facts(42, slow), decode }).chosen.workers, [])
  })

  test('workers that are about as fast keep their places, whoever is measured to be the fastest', () => {
    const orderOf = (...speeds: number[]) => {
      const workers = speeds.map((speed, i) => named(`w${i}`, flopCost(LLAMA_31_8B, 1e13 * speed)))
      const links = linksBetween([...workers, decodeNode()], () => 1000 * FAST)
      const { candidates } = planPrefill(facts(32_769, workers, { links }), {
        strategy: 'chain',
        workers: speeds.length,
      })
      return find(candidates, 'chain', speeds.length).workers.map(({ worker }) => worker)
    }
    const inTurn = Array.from({ length: 9 }, (_, i) => `w${i}`)
    assert.deepEqual(orderOf(1, 1.1, 0.95, 1.2, 1, 1.05, 0.98, 1.02, 1.1), inTurn)
    assert.deepEqual(orderOf(0.95, 1.1, 1, 1.05), inTurn.slice(0, 4))
    assert.deepEqual(orderOf(0.4, 1.1, 1, 0.45, 1, 1, 1, 1, 1).slice(-2), ['w0', 'w3'])
  })

  test('at most 64 workers take part, as many as an assignment can list', () => {
    const { candidates } = planPrefill(facts(1_000_001, equalWorkers(80, server)))
    assert.equal(Math.max(...candidates.map(({ workers }) => workers.length)), 64)
    assertCode('plan_impossible', /65 .* 64/, () =>
      planPrefill(facts(1_000_001, equalWorkers(80, server)), { workers: 65 }),
    )
  })

  test('of equal plans the one with fewer workers is chosen, and of those solo', () => {
    const free = { o: 0, a: 0, b: 0 }
    const workers = equalWorkers(3, free)
    const links = linksBetween([...workers, decodeNode()], () => Number.POSITIVE_INFINITY, 0)
    assert.equal(print(planPrefill(facts(1000, workers, { links })).chosen), 'solo w1')
  })

  test('of equal workers the first by name is taken, in whatever order they are given', () => {
    const workers = equalWorkers(5, server)
    const forward = planPrefill(facts(5000, workers), { workers: 3 })
    const backward = planPrefill(facts(5000, workers.toReversed()), { workers: 3 })
    assert.deepEqual(backward.candidates, forward.candidates)
    assert.match(print(forward.chosen), / w1 w2 w3$/)
  })
})

describe('what is asked for', () => {
  const three = facts(8193, equalWorkers(3, server))
  const asks: [PlanAsk, string[]][] = [
    [{ strategy: 'solo' }, ['solo w1', 'solo w2', 'solo w3']],
    [{ strategy: 'chain' }, ['chain w1 w2 w3', 'chain w1 w2']],
    [{ strategy: 'ring' }, ['ring w1 w2 w3', 'ring w1 w2']],
    [{ strategy: 'chain', workers: 2 }, ['chain w1 w2']],
    [{ strategy: 'ring', workers: 1 }, ['ring w1']],
    [{ strategy: 'solo', workers: 1 }, ['solo w1', 'solo w2', 'solo w3']],
    [{ workers: 1 }, ['solo w1', 'solo w2', 'solo w3']],
  ]
  for (const [ask, expected] of asks)
    test(`${JSON.stringify(ask)} gives ${expected.join(', ')}`, () => {
      assert.deepEqual(planPrefill(three, ask).candidates.map(print), expected)
    })

  test('a number alone leaves the strategy open', () => {
    assert.deepEqual(planPrefill(three, { workers: 3 }).candidates.map(print).toSorted(), [
      'chain w1 w2 w3',
      'ring w1 w2 w3',
    ])
  })

  test('a strategy on the only worker is a plan of that strategy', () => {
    for (const strategy of STRATEGIES) {
      const { candidates } = planPrefill(facts(100, equalWorkers(1, server)), { strategy })
      assert.deepEqual(candidates.map(print), [`${strategy} w1`])
    }
  })

  test('more workers than there are is impossible, and both numbers are named', () => {
    assertCode('plan_impossible', /^4 .* 3 /, () => planPrefill(three, { workers: 4 }))
    assertCode('plan_impossible', /^2 .* 1 /, () => planPrefill(three, { strategy: 'solo', workers: 2 }))
    assertCode('plan_impossible', /^0 .* 3 /, () => planPrefill(three, { workers: 0 }))
    assertCode('plan_impossible', /^1.5 .* 3 /, () => planPrefill(three, { workers: 1.5 }))
  })

  test('a number is taken as exact as the prompt allows', () => {
    const eight = equalWorkers(8, server)
    assert.equal(planPrefill(facts(4, eight), { strategy: 'chain', workers: 8 }).chosen.workers.length, 3)
    assert.equal(planPrefill(facts(4, eight), { strategy: 'ring', workers: 8 }).chosen.workers.length, 2)
    assert.equal(planPrefill(facts(2, eight), { workers: 8 }).chosen.workers.length, 1)
  })

  test('a number is met even where fewer workers were faster', () => {
    const workers = [...equalWorkers(2, server), named('far', server, { rttSeconds: 60 })]
    assert.equal(planPrefill(facts(4097, workers, allBut('far', workers)), { workers: 3 }).chosen.workers.length, 3)
  })
})

describe('what is missing', () => {
  const workers = equalWorkers(2, server)

  test('without prefill workers there is no plan', () => {
    assertCode('no_workers', /prefill worker/, () => planPrefill(facts(100, [])))
    assertCode('no_workers', /prefill worker/, () => planPrefill(facts(100, []), { workers: 2 }))
  })

  test('without a decode node there is no plan', () => {
    assertCode('no_decode_node', /decode node/, () => planPrefill(facts(100, workers, { decode: [] })))
  })

  test('without tokens there is no plan', () => {
    assertCode('empty_prompt', /tokens/, () => planPrefill(facts(0, workers)))
  })

  test('a prompt of one token needs no workers', () => {
    for (const ready of [workers, []]) {
      const { chosen, candidates } = planPrefill(facts(1, ready))
      assert.deepEqual(candidates, [chosen])
      assert.equal(chosen.strategy, 'solo')
      assert.deepEqual(chosen.workers, [])
      assert.equal(chosen.prefillTokens, 0)
    }
    assert.equal(planPrefill(facts(1, workers), { strategy: 'ring', workers: 2 }).chosen.strategy, 'ring')
  })
})

test('the decode node that holds the fewest runs is taken, the first by name among equals', () => {
  const nodes = (runs: Record<string, number>) =>
    Object.entries(runs).map(([id, runs]): DecodeFacts => decodeNode({ id: asWorkerId(id), runs }))
  const chosen = (runs: Record<string, number>) =>
    planPrefill(facts(100, equalWorkers(1, server), { decode: nodes(runs) })).chosen.decode
  assert.equal(chosen({ d1: 2, d2: 1, d3: 3 }), 'd2')
  assert.equal(chosen({ d2: 1, d1: 1 }), 'd1')
})

test('a block is a multiple of 64 tokens, at most 512, and fits a frame', () => {
  const tokensOf = (kvHeads: number, headDim: number, blockTokens?: number) => {
    const shape = { ...LLAMA_31_8B, kvHeads, headDim }
    const wanted = blockTokens === undefined ? {} : { blockTokens }
    const plan = planPrefill(facts(100, equalWorkers(1, server), { shape, ...wanted })).chosen
    assert.ok(plan.blockTokens * kvBytesPerTokenLayer(shape) <= MAX_BLOCK_BYTES)
    return plan.blockTokens
  }
  assert.equal(tokensOf(8, 128), 512)
  assert.equal(tokensOf(32, 128), 256)
  assert.equal(tokensOf(40, 128), 192)
  assert.equal(tokensOf(8, 128, 300), 256)
  assert.equal(tokensOf(8, 128, 4096), 512)
  assert.equal(tokensOf(8, 128, 16), 16)
  assert.equal(tokensOf(128, 512), 16)
})

describe('for any facts', () => {
  test('plans are complete, frozen, and the first is the best', () => {
    fc.assert(
      fc.property(anyFacts, anyStrategy, (facts, strategy) => {
        const { chosen, candidates } = planPrefill(facts, strategy === undefined ? {} : { strategy })
        candidates.forEach(assertComplete)
        assert.equal(candidates[0], chosen)
        assertDeepFrozen(candidates)
        assert.equal(chosen, candidates[0])
        const best = Math.min(...candidates.map((plan) => plan.predictedTtftSeconds))
        assert.equal(chosen.predictedTtftSeconds, best)
        assert.ok(candidates.every((plan) => strategy === undefined || plan.strategy === strategy))
      }),
      { ...SEEDED, numRuns: 150 },
    )
  })

  test('asking for nothing is never slower than asking for something', () => {
    fc.assert(
      fc.property(anyFacts, anyStrategy, fc.integer({ min: 1, max: 9 }), (facts, strategy, number) => {
        const workers = Math.min(number, strategy === 'solo' ? 1 : facts.workers.length)
        const asked = planPrefill(facts, strategy === undefined ? { workers } : { workers, strategy }).chosen
        assert.ok(asked.workers.length <= workers)
        assert.ok(planPrefill(facts).chosen.predictedTtftSeconds <= asked.predictedTtftSeconds * 1.02)
      }),
      { ...SEEDED, numRuns: 150 },
    )
  })

  test('the same facts in any order give the same plans', () => {
    fc.assert(
      fc.property(anyFacts, (facts) => {
        const again = { ...structuredClone(facts), workers: structuredClone(facts.workers).toReversed() }
        assert.deepEqual(planPrefill(again).candidates, planPrefill(facts).candidates)
      }),
      { ...SEEDED, numRuns: 150 },
    )
  })
})
