import assert from 'node:assert/strict'
import { test } from 'node:test'
import { layerSeconds } from '../../../coordinator/planning/cost.ts'
import type { PlanFacts } from '../../../coordinator/planning/facts.ts'
import { CHAIN_END, CHAIN_LINK, costWithMoving, movedTokens, ringPasses } from '../../../coordinator/planning/moving.ts'
import { planPrefill } from '../../../coordinator/planning/plan-prefill.ts'
import { type Plan, type Span, spanTokens } from '../../../shared/plan.ts'
import type { Cost } from '../../../shared/protocol/control.ts'
import { decodeNode, equalWorkers, FAST, flopCost, LLAMA_31_8B, linksBetween, named } from './support.ts'

const span = (start: number, end: number): Span[] => [{ start, end }]

test('a chain passes on all that comes, but for its last worker', () => {
  assert.deepEqual(movedTokens('chain', [span(0, 5), span(5, 8), span(8, 10)]), [
    { prefix: 5, received: 0, relayed: 0 },
    { prefix: 3, received: 5, relayed: 5 },
    { prefix: 0, received: 8, relayed: 0 },
  ])
})

test('a ring passes on all but what its next worker made', () => {
  assert.deepEqual(movedTokens('ring', [span(0, 5), span(5, 8), span(8, 10)]), [
    { prefix: 5, received: 5, relayed: 2 },
    { prefix: 3, received: 7, relayed: 5 },
    { prefix: 2, received: 8, relayed: 3 },
  ])
  for (const strategy of ['solo', 'chain', 'ring'] as const)
    assert.deepEqual(movedTokens(strategy, [span(0, 5)]), [{ prefix: 0, received: 0, relayed: 0 }])
})

test('passes say what is moved, for the whole of a chain and of an equal ring', () => {
  const seconds = (at: number, spans: Span[][], strategy: 'chain' | 'ring') => {
    const { prefix, received, relayed } = movedTokens(strategy, spans)[at]!
    return spanTokens(spans[at]!) + prefix + received + relayed
  }
  const passed = (own: number, others: number, { own: a, others: c }: typeof CHAIN_END) => own * a + others * c
  const spans = [span(0, 4), span(4, 8), span(8, 12)]
  assert.equal(seconds(1, spans, 'chain'), passed(4, 4, CHAIN_LINK))
  assert.equal(seconds(2, spans, 'chain'), passed(4, 8, CHAIN_END))
  assert.equal(seconds(0, spans, 'ring'), passed(4, 8, ringPasses(3)))
})

test('a cost with moving is the cost where moving takes nothing', () => {
  const cost = { o: 1, a: 2, b: 3, c: 4 }
  assert.equal(costWithMoving(cost, CHAIN_LINK), cost)
  assert.deepEqual(costWithMoving({ ...cost, s: 10 }, CHAIN_LINK), { o: 1, a: 22, b: 3, c: 24 })
})

test('who has no core for sockets takes longer, by what it moves, and gets fewer tokens', () => {
  const cost = flopCost(LLAMA_31_8B, 1e12)
  const facts = (workers: PlanFacts['workers']): PlanFacts => ({
    shape: LLAMA_31_8B,
    promptTokens: 8193,
    workers,
    decode: [decodeNode()],
    links: linksBetween([...workers, decodeNode()], () => 10 * FAST),
    narrowestWire: 'f32',
  })
  const s = cost.a / 10
  const alone = (of: Cost): Plan => planPrefill(facts([named('w1', of)]), { strategy: 'solo' }).chosen
  const more = alone({ ...cost, s }).predictedTtftSeconds - alone(cost).predictedTtftSeconds
  const expected = LLAMA_31_8B.layers * 8192 * s
  assert.ok(Math.abs(more / expected - 1) < 0.05, `${more}, not ${expected}`)

  const [free, busy] = [named('w1', cost), named('w2', { ...cost, s })]
  const { chosen } = planPrefill(facts([free, busy]), { strategy: 'ring', workers: 2 })
  const tokens = Object.fromEntries(chosen.workers.map(({ worker, spans }) => [worker, spanTokens(spans)]))
  assert.ok(tokens['w2']! < 0.95 * tokens['w1']!, JSON.stringify(tokens))
})

test('as many workers as are asked for take part, though moving takes longer than computing', () => {
  const cost = { ...flopCost(LLAMA_31_8B, 1e12), o: 0.1 }
  const slow = { ...cost, s: 100 * cost.a }
  const workers = [cost, slow, cost, slow, { ...cost, s: cost.a }].map((each, i) => named(`w${i}`, each))
  for (const strategy of ['chain', 'ring'] as const)
    for (const promptTokens of [101, 5000]) {
      const facts = { shape: LLAMA_31_8B, promptTokens, workers, decode: [decodeNode({ cost })], links: new Map() }
      const { chosen } = planPrefill({ ...facts, narrowestWire: 'f32' }, { strategy, workers: 5 })
      assert.equal(chosen.workers.length, 5, `${strategy} of ${promptTokens}`)
    }
})

test('all of a chain whose workers move as much as they compute still finish a layer together', () => {
  const cost = { ...flopCost(LLAMA_31_8B, 1e12), s: 0 }
  const workers = equalWorkers(3, { ...cost, s: cost.a / 5 })
  const links = linksBetween([...workers, decodeNode()], () => 10 * FAST)
  const facts = { shape: LLAMA_31_8B, promptTokens: 32_769, workers, decode: [decodeNode()], links }
  const { chosen } = planPrefill({ ...facts, narrowestWire: 'f32' }, { strategy: 'chain', workers: 3 })
  const spans = chosen.workers.map((worker) => [...worker.spans])
  const moved = movedTokens('chain', spans)
  const seconds = chosen.workers.map((worker, i) => {
    const { prefix, received, relayed } = moved[i]!
    const moving = spanTokens(worker.spans) + prefix + received + relayed
    return layerSeconds(cost, worker.spans) + (cost.a / 5) * moving
  })
  assert.ok(Math.max(...seconds) < 1.06 * Math.min(...seconds), seconds.join(', '))
})
