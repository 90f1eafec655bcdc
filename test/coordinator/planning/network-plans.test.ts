import assert from 'node:assert/strict'
import { describe, test } from 'node:test'
import fc from 'fast-check'
import { contextOf } from '../../../coordinator/planning/context.ts'
import { time } from '../../../coordinator/planning/evaluate.ts'
import { linkKey, type PlanFacts } from '../../../coordinator/planning/facts.ts'
import { carriedSeconds, fits, type Layout } from '../../../coordinator/planning/layout.ts'
import { cardsOf, linkFrom } from '../../../coordinator/planning/network.ts'
import { ChainOrders, ordersToTry, usualOrder, WORTHWHILE } from '../../../coordinator/planning/orders.ts'
import { planPrefill } from '../../../coordinator/planning/plan-prefill.ts'
import { RingOrders } from '../../../coordinator/planning/ring-orders.ts'
import { canCompute, canEnter } from '../../../coordinator/planning/split.ts'
import type { HeadraceError } from '../../../shared/errors.ts'
import { asWorkerId } from '../../../shared/ids.ts'
import { kvBytesPerTokenLayer } from '../../../shared/model-shape.ts'
import { type Plan, spanTokens, WIRES } from '../../../shared/plan.ts'
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

const server = flopCost(LLAMA_31_8B, 10e12)
const GIGABIT = 1.1e8

const facts = (workers: PlanFacts['workers'], rest: Partial<PlanFacts> = {}): PlanFacts => ({
  shape: LLAMA_31_8B,
  promptTokens: 32_769,
  workers,
  decode: [decodeNode()],
  links: new Map(),
  narrowestWire: 'f32',
  ...rest,
})

const rates = (workers: PlanFacts['workers'], rate: (from: string, to: string) => number) =>
  linksBetween([...workers, decodeNode()], rate)

const decodeTokens = (plan: Plan) => plan.promptTokens - plan.prefillTokens

describe('links', () => {
  test('one gigabit carries two workers no faster than it carries their KV to the decode node', () => {
    const { chosen } = planPrefill(facts(equalWorkers(4, server)))
    const bytes = 32_768 * 32 * kvBytesPerTokenLayer(LLAMA_31_8B)
    assert.ok(chosen.predictedTtftSeconds >= bytes / GIGABIT)
    assert.equal(chosen.bound, 'link')
    assert.match(chosen.boundBy, /^links? (to|w\d to) d1$/)
  })

  test('one that was not measured is as fast as the cards at its ends have proved to be', () => {
    const workers = equalWorkers(3, server)
    const all = [...workers, decodeNode()]
    const rateIn = (links: PlanFacts['links'], from: string, to: string) => {
      const of = (id: string) => all.find((each) => each.id === id)!
      return linkFrom(of(from), of(to), links, cardsOf(all, links)).bytesPerSecond
    }
    const links = new Map([
      [linkKey('w1', 'd1'), { bytesPerSecond: 0.1 * GIGABIT, rttSeconds: 0 }],
      [linkKey('w2', 'd1'), { bytesPerSecond: 10 * GIGABIT, rttSeconds: 0 }],
    ])
    assert.equal(rateIn(links, 'w1', 'w2'), 0.1 * GIGABIT)
    assert.equal(rateIn(links, 'w2', 'w1'), 0.1 * GIGABIT)
    assert.equal(rateIn(links, 'w3', 'd1'), 10 * GIGABIT)
    assert.equal(rateIn(links, 'w3', 'w2'), 10 * GIGABIT)
    assert.equal(rateIn(new Map(), 'w3', 'w2'), GIGABIT)
  })

  test('what arithmetic takes longer for does not make links slower, nor faster', () => {
    const at = (split: number, fraction: number, solo = 1) => {
      const workers = equalWorkers(3, server)
      const links = rates(workers, () => fraction * FAST)
      const known = facts(workers, { links, pace: { solo, split } })
      return planPrefill(known, { strategy: 'chain', workers: 3 }).chosen.predictedTtftSeconds
    }
    const bytes = 32_768 * 32 * kvBytesPerTokenLayer(LLAMA_31_8B)
    assert.ok(at(0.75, 0.02) >= bytes / (0.02 * FAST))
    assert.ok(at(1.5, 0.02) < 1.05 * at(1, 0.02))
    assert.ok(Math.abs(at(1.5, 100) / at(1, 100) - 1.5) < 0.01)
    assert.equal(at(1, 100, 1.5), at(1, 100))
    const workers = equalWorkers(1, server)
    const links = rates(workers, () => 100 * FAST)
    const alone = (solo: number) =>
      planPrefill(facts(workers, { links, pace: { solo, split: 2 } }), { strategy: 'solo' }).chosen
    assert.ok(Math.abs(alone(1.5).predictedTtftSeconds / alone(1).predictedTtftSeconds - 1.5) < 0.01)
  })

  test('a slow network card goes to the head or stays out', () => {
    const workers = equalWorkers(4, server)
    const links = rates(workers, (from, to) => (from === 'w2' || to === 'w2' ? GIGABIT : 10 * FAST))
    const { chosen } = planPrefill(facts(workers, { links }), { strategy: 'chain' })
    const at = chosen.workers.findIndex(({ worker }) => worker === 'w2')
    assert.ok(at <= 0, `w2 is at ${at}`)
  })

  test('a link inside a host is no limit where the network is one', () => {
    const apart = equalWorkers(3, server)
    const together = apart.map((worker) => ({ ...worker, host: decodeNode().host }))
    const [slow, fast] = [apart, together].map((workers) => planPrefill(facts(workers)).chosen.predictedTtftSeconds)
    assert.ok(fast! < 0.8 * slow!)
  })

  test('narrower blocks are used only where they gain, and no narrower than allowed', () => {
    for (const narrowestWire of WIRES) {
      const slow = planPrefill(facts(equalWorkers(3, server), { narrowestWire })).chosen
      assert.ok(slow.workers.every((worker) => worker.handoffWire === narrowestWire))
      const workers = equalWorkers(3, server)
      const links = rates(workers, () => 100 * FAST)
      const fast = planPrefill(facts(workers, { narrowestWire, links })).chosen
      assert.ok(fast.workers.every((worker) => worker.handoffWire === 'f32' && worker.prefixWire === 'f32'))
    }
  })

  test('a narrow link makes every worker before it narrow, and no other', () => {
    const workers = equalWorkers(4, server)
    const links = rates(workers, () => 0.4 * FAST)
    for (const plan of planPrefill(facts(workers, { links, narrowestWire: 'int8' })).candidates) {
      const width = plan.workers.map(({ prefixWire }) => WIRES.indexOf(prefixWire))
      if (plan.strategy === 'ring' && width.length > 1) assert.equal(new Set(width).size, 1)
      else
        assert.deepEqual(
          width.toSorted((x, y) => y - x),
          width,
        )
    }
  })
})

describe('the decode node', () => {
  const workers = equalWorkers(2, server)
  const links = rates(workers, () => 10 * FAST)

  test('takes the last token alone while it is not calibrated', () => {
    assert.equal(decodeTokens(planPrefill(facts(workers, { links })).chosen), 1)
  })

  test('with a cost and cores of its own it takes its part', () => {
    const plan = (cost?: typeof server) =>
      planPrefill(facts(workers, { links, decode: [decodeNode(cost && { cost })] })).chosen
    assert.ok(decodeTokens(plan(server)) > 5000)
    assert.ok(plan(server).predictedTtftSeconds < 0.75 * plan().predictedTtftSeconds)
  })

  test('that shares its cores with a worker leaves them to it', () => {
    const decode = [decodeNode({ cost: server, host: 'one', cores: 8, threads: 4 })]
    const on = (threads: number) =>
      planPrefill(
        facts(
          workers.map((worker) => ({ ...worker, host: 'one', threads })),
          { decode },
        ),
      ).candidates
    for (const plan of on(3)) if (plan.workers.length === 2) assert.equal(decodeTokens(plan), 1)
    assert.ok(on(2).some((plan) => plan.workers.length === 2 && decodeTokens(plan) > 1))
  })

  test('does all where splitting loses', () => {
    const decode = [decodeNode({ cost: server })]
    const slow = equalWorkers(2, flopCost(LLAMA_31_8B, 1e10))
    const { chosen } = planPrefill(facts(slow, { decode, promptTokens: 100 }))
    assert.deepEqual([chosen.strategy, chosen.workers.length, chosen.prefillTokens], ['solo', 0, 0])
    assert.equal(chosen.boundBy, 'd1 computes')
    assert.equal(planPrefill(facts(slow, { decode, promptTokens: 100 }), { workers: 2 }).chosen.workers.length, 2)
  })

  test('without room for prompt and answer is no choice', () => {
    const budgetBytes = (32_769 + 100) * 32 * kvBytesPerTokenLayer(LLAMA_31_8B)
    const nodes = [
      decodeNode({ budgetBytes: budgetBytes - 1 }),
      decodeNode({ id: asWorkerId('d2'), runs: 5, budgetBytes }),
    ]
    assert.equal(planPrefill(facts(workers, { decode: nodes, maxTokens: 100 })).chosen.decode, 'd2')
    assert.throws(
      () => planPrefill(facts(workers, { decode: nodes.slice(0, 1), maxTokens: 100 })),
      ({ code, details }: HeadraceError) => code === 'plan_impossible' && details?.['neededBytes'] === budgetBytes,
    )
  })
})

describe('workers of one host', () => {
  test('cost what they cost together', () => {
    const workers = equalWorkers(2, server).map((worker) => ({
      ...worker,
      host: 'one',
      sharedCost: flopCost(LLAMA_31_8B, 5e12),
    }))
    const { chosen } = planPrefill(facts(workers, { decode: [decodeNode({ host: 'one' })] }))
    assert.equal(chosen.workers.length, 1, 'two halves of one machine are no faster')
  })
})

describe('memory', () => {
  const tokenBytes = (2 * 4096 + 2 * 32 * 128 + 2 * 32) * 4 + kvBytesPerTokenLayer(LLAMA_31_8B)

  test('moves tokens to where there is room, and says so', () => {
    const [small, ...rest] = equalWorkers(2, server)
    const workers = [{ ...small!, budgetBytes: 5000 * tokenBytes }, ...rest]
    const { chosen } = planPrefill(facts(workers, { links: rates(workers, () => 10 * FAST) }), { strategy: 'chain' })
    const own = chosen.workers.find(({ worker }) => worker === 'w1')!
    assert.ok(spanTokens(own.spans) <= 5000 && spanTokens(own.spans) > 4900)
    assert.deepEqual([chosen.bound, chosen.boundBy], ['memory', 'memory of w1'])
  })

  test('that nothing fits in is a coded error', () => {
    const workers = equalWorkers(2, server).map((worker) => ({ ...worker, budgetBytes: 100 * tokenBytes }))
    assert.throws(
      () => planPrefill(facts(workers)),
      ({ code, details }: HeadraceError) => code === 'plan_impossible' && details?.['promptTokens'] === 32_769,
    )
  })
})

const rate = fc.double({ min: 1e7, max: 5e9, noNaN: true })
const speed = fc.double({ min: 1e11, max: 2e13, noNaN: true })
const anyCluster = fc
  .record({
    promptTokens: fc.oneof(fc.integer({ min: 1, max: 5 }), fc.integer({ min: 6, max: 60_000 })),
    speeds: fc.array(speed, { minLength: 1, maxLength: 4 }),
    seeds: fc.array(rate, { minLength: 25, maxLength: 25 }),
    budgets: fc.array(fc.option(fc.double({ min: 1e7, max: 1e10, noNaN: true })), { minLength: 5, maxLength: 5 }),
    narrowestWire: fc.constantFrom(...WIRES),
    calibrated: fc.boolean(),
    moving: fc.constantFrom(0, 0.02, 0.2),
  })
  .map(({ promptTokens, speeds, seeds, budgets, narrowestWire, calibrated, moving }) => {
    const workers = speeds.map((flops, i) => {
      const cost = flopCost(LLAMA_32_1B, flops, 1e-4)
      const budget = budgets[i] == null ? {} : { budgetBytes: budgets[i] }
      return named(`w${i}`, { ...cost, c: (moving * cost.a) / 4, s: moving * cost.a }, budget)
    })
    let next = 0
    const links = rates(workers, () => seeds[next++ % seeds.length]!)
    const decode = [decodeNode(calibrated ? { cost: flopCost(LLAMA_32_1B, 2e12, 1e-4) } : {})]
    return facts(workers, { shape: LLAMA_32_1B, promptTokens, links, decode, narrowestWire })
  })

/** A search that knows of a good order looks on only for one that is better by this. */
const WORTH = 1 / WORTHWHILE + 1e-9

const subsets = (count: number, size: number): number[][] =>
  Array.from({ length: 2 ** count }, (_, set) =>
    Array.from({ length: count }, (_, i) => i).filter((i) => (set >> i) & 1),
  ).filter((members) => members.length === size)

const unless = <T>(code: string, run: () => T): T | undefined => {
  try {
    return run()
  } catch (thrown) {
    assert.equal((thrown as HeadraceError).code, code)
    return undefined
  }
}

function layoutOf(plan: Plan, order: readonly { id: string }[]): Layout {
  return {
    strategy: plan.strategy,
    members: plan.workers.map(({ worker }) => order.findIndex(({ id }) => id === worker)),
    spans: plan.workers.map(({ spans }) => spans),
    prefixWires: plan.workers.map(({ prefixWire }) => prefixWire),
    handoffWires: plan.workers.map(({ handoffWire }) => handoffWire),
  }
}

describe('for any cluster', () => {
  test('spans tile the prompt, memory is kept, and each prediction is what its plan simulates to', () => {
    fc.assert(
      fc.property(anyCluster, (cluster) => {
        const context = contextOf(cluster)
        for (const plan of unless('plan_impossible', () => planPrefill(cluster))?.candidates ?? []) {
          const spans = plan.workers.flatMap((worker) => worker.spans).toSorted((x, y) => x.start - y.start)
          for (const [i, span] of spans.entries()) assert.equal(span.start, spans[i - 1]?.end ?? 0)
          assert.equal(spans.at(-1)?.end ?? 0, plan.prefillTokens)
          assert.ok(decodeTokens(plan) >= 1)
          const layout = layoutOf(plan, context.workers)
          assert.ok(fits(context, layout))
          assert.equal(time(context, layout).seconds, plan.predictedTtftSeconds)
          assert.ok(plan.boundBy.length > 0)
        }
      }),
      { ...SEEDED, numRuns: 100 },
    )
  })

  test('no plan comes to less than the bounds by which the search leaves plans out', () => {
    fc.assert(
      fc.property(anyCluster, (cluster) => {
        const context = contextOf(cluster)
        for (const plan of unless('plan_impossible', () => planPrefill(cluster))?.candidates ?? []) {
          const layout = layoutOf(plan, context.workers)
          const limit = plan.predictedTtftSeconds * (1 + 1e-9)
          const least = carriedSeconds(context, layout)
          assert.ok(least <= limit, `${least} of ${plan.predictedTtftSeconds}`)
          assert.ok(canCompute(context, layout.members, limit))
          const wire = cluster.narrowestWire
          const ask = { strategy: plan.strategy, wire, share: true }
          if (plan.workers.length > 0)
            assert.ok(canEnter(context, layout.members, ask, limit / (context.shape.layers - 1)))
        }
      }),
      { ...SEEDED, numRuns: 100 },
    )
  })

  test('the search keeps what it would keep if it rated every set of workers in full', () => {
    fc.assert(
      fc.property(anyCluster, fc.constantFrom('chain', 'ring'), (cluster, strategy) => {
        const context = contextOf(cluster)
        const count = context.workers.length
        const ask = { strategy, wire: 'f32', all: false } as const
        const search = strategy === 'chain' ? new ChainOrders(context, ask) : new RingOrders(context, 'f32')
        const none = { best: Number.POSITIVE_INFINITY, worst: Number.POSITIVE_INFINITY }
        for (let size = 2; size <= count; size++) {
          const inFull = subsets(count, size).flatMap((members) => search.rate(usualOrder(context, members), none))
          const kept = ordersToTry(context, { least: size, most: size }, ask)
          const least = Math.min(...inFull.map(({ seconds }) => seconds))
          if (least === Number.POSITIVE_INFINITY) continue
          const found = Math.min(
            ...kept.map((order) => inFull.find((rated) => String(rated.order) === String(order))?.seconds ?? Infinity),
          )
          assert.ok(found <= least * WORTH, `${found}, not ${least}, of ${size}`)
        }
      }),
      { ...SEEDED, numRuns: 150 },
    )
  })

  test('faster links make no given plan slower', () => {
    fc.assert(
      fc.property(anyCluster, fc.double({ min: 1, max: 20, noNaN: true }), (cluster, gain) => {
        const plan = unless('plan_impossible', () => planPrefill(cluster))?.chosen
        if (plan === undefined) return
        const links = new Map(
          [...cluster.links].map(([key, link]) => [key, { ...link, bytesPerSecond: link.bytesPerSecond * gain }]),
        )
        const faster = contextOf({ ...cluster, links })
        const { seconds } = time(faster, layoutOf(plan, faster.workers))
        assert.ok(seconds <= plan.predictedTtftSeconds * (1 + 1e-9))
        assert.ok(planPrefill({ ...cluster, links }).chosen.predictedTtftSeconds <= plan.predictedTtftSeconds * 1.03)
      }),
      { ...SEEDED, numRuns: 100 },
    )
  })

  test('no chain of two workers is more than a few percent faster than the plan, whatever its split', () => {
    fc.assert(
      fc.property(anyCluster, (cluster) => {
        const plan = unless('plan_impossible', () => planPrefill(cluster))?.chosen
        const context = contextOf({ ...cluster, narrowestWire: 'f32' })
        const prefill = cluster.promptTokens - 1
        if (plan === undefined || prefill < 64 || context.workers.length < 2) return
        for (const members of [
          [0, 1],
          [1, 0],
        ])
          for (let cut = 1; cut < 32; cut++) {
            const at = Math.round((prefill * cut) / 32)
            const spans = [[{ start: 0, end: at }], [{ start: at, end: prefill }]]
            const wires = ['f32', 'f32'] as const
            const layout: Layout = { strategy: 'chain', members, spans, prefixWires: wires, handoffWires: wires }
            if (!fits(context, layout)) continue
            assert.ok(plan.predictedTtftSeconds <= 1.03 * time(context, layout).seconds, `${members} cut at ${at}`)
          }
      }),
      { ...SEEDED, numRuns: 150 },
    )
  })
})
