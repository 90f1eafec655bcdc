import assert from 'node:assert/strict'
import { describe, it } from 'node:test'
import fc from 'fast-check'
import { correctedCost, type Measured } from '../../../coordinator/cluster/cost-correction.ts'
import type { Cost } from '../../../shared/protocol/control.ts'
import { seededRandom } from '../../support/random.ts'

const COST: Cost = { o: 1e-4, a: 1e-5, b: 1e-9 }

/** What a run takes on a machine whose true cost is `truth`. */
const measure = (work: Cost, truth: Cost, toldApart = true): Measured => {
  const attendSeconds = work.b * truth.b
  const computeSeconds = work.o * truth.o + work.a * truth.a + attendSeconds
  return { work, computeSeconds, attendSeconds: toldApart ? attendSeconds : 0 }
}
const scaled = ({ o, a, b }: Cost, linear: number, attention: number): Cost => ({
  o: o * linear,
  a: a * linear,
  b: b * attention,
})
/** Linear part 10 s, attention 20 s. */
const LONG: Cost = { o: 24, a: 1e6 - 240, b: 2e10 }
const near = (actual: number, expected: number, tolerance: number) =>
  assert.ok(Math.abs(actual / expected - 1) < tolerance, `${actual}, not ${expected}`)

describe('a corrected cost', () => {
  it('stays as it is when the prediction was right', () => {
    assert.deepEqual(correctedCost(COST, measure(LONG, COST), 0), COST)
  })

  it('tells attention from the rest', () => {
    const { o, a, b } = correctedCost(COST, measure(LONG, scaled(COST, 1, 2)), 0)
    assert.deepEqual([o, a], [COST.o, COST.a])
    near(b, 1.7e-9, 0.01)
    const linear = correctedCost(COST, measure(LONG, scaled(COST, 2, 1)), 0)
    near(linear.a, 1.7e-5, 0.02)
    near(linear.o / linear.a, COST.o / COST.a, 1e-9)
    assert.equal(linear.b, COST.b)
  })

  it('knows what attention takes for each token beside what it takes for each key', () => {
    const cost: Cost = { o: 1e-4, a: 1.2e-5, b: 1e-9, e: 2e-6 }
    const truth = { linear: 2, attention: 0.5 }
    const attendSeconds = truth.attention * (cost.e! * LONG.a + cost.b * LONG.b)
    const computeSeconds = truth.linear * (cost.o * LONG.o + 1e-5 * LONG.a) + attendSeconds
    const { a, b, e } = correctedCost(cost, { work: LONG, computeSeconds, attendSeconds }, 0)
    near(b / cost.b, 1 - 0.7 * 0.5, 0.01)
    near(e! / cost.e!, b / cost.b, 1e-9)
    near((a - e!) / 1e-5, 1.7, 0.01)
  })

  it('scales all alike while attention is not told apart', () => {
    const { a, b } = correctedCost(COST, measure(LONG, scaled(COST, 2, 2), false), 0)
    near(a / COST.a, 1.7, 0.02)
    near(b / COST.b, 1.7, 0.02)
  })

  it('moves less with every run, and never less than 0.3 of the way', () => {
    const moves = [0, 1, 3, 100].map(
      (seen) => correctedCost(COST, measure(LONG, scaled(COST, 2, 2)), seen).b / COST.b - 1,
    )
    for (const [i, expected] of [0.7, 0.495, 0.35, 0.3].entries()) near(moves[i]!, expected, 0.02)
  })

  it('learns little from a short run', () => {
    const short: Cost = { o: 1, a: 100, b: 1e4 }
    const { a } = correctedCost(COST, measure(short, scaled(COST, 4, 4)), 0)
    assert.ok(a > COST.a && a < 1.25 * COST.a, String(a))
  })

  it('is not thrown off by one absurd run, slow or fast', () => {
    const slow = correctedCost(COST, measure(LONG, scaled(COST, 1e6, 1e6)), 0)
    near(slow.a / COST.a, 1 + 0.7 * 3, 0.01)
    const fast = correctedCost(COST, measure(LONG, scaled(COST, 1e-6, 1e-6)), 0)
    near(fast.b / COST.b, 1 - 0.7 * 0.75, 0.02)
    for (const computeSeconds of [0, Number.NaN])
      assert.deepEqual(correctedCost(COST, { work: LONG, computeSeconds, attendSeconds: 0 }, 0), COST)
  })

  it('finds an attention that the fit had missed, and no linear part where there was none', () => {
    const { b } = correctedCost({ ...COST, b: 0 }, measure(LONG, COST), 0)
    near(b, 0.7 * COST.b, 0.02)
    const none = correctedCost({ o: 0, a: 0, b: 1e-9 }, measure(LONG, COST), 0)
    assert.deepEqual([none.o, none.a], [0, 0])
  })

  it('comes within 10 % of the truth in six runs, and stays there though each is off by as much', () => {
    const random = seededRandom(11)
    for (const [linear, attention] of [
      [3, 0.4],
      [0.3, 3.5],
      [1.5, 1.5],
    ] as const) {
      const truth = scaled(COST, linear, attention)
      let cost = COST
      for (let run = 0; run < 6; run++) cost = correctedCost(cost, measure(LONG, truth), run)
      near(cost.a, truth.a, 0.1)
      near(cost.b, truth.b, 0.1)
      for (let run = 6; run < 60; run++) {
        const noise = 0.9 + 0.2 * random()
        cost = correctedCost(cost, measure(LONG, scaled(truth, noise, noise)), run)
        near(cost.a, truth.a, 0.1)
        near(cost.b, truth.b, 0.1)
      }
    }
  })

  it('tells what sockets took from what arithmetic takes', () => {
    const cost: Cost = { ...COST, c: 1e-6, s: 1e-6 }
    const work: Cost = { ...LONG, c: 1e5, s: 1e6 }
    const pure = { ...measure(LONG, COST), work }
    const computeSeconds = pure.computeSeconds + work.c! * cost.c! + 3
    // Each second of the run was interrupted alike.
    const attendSeconds = pure.attendSeconds * (computeSeconds / (computeSeconds - 3))
    const told = { work, computeSeconds, attendSeconds, movingSeconds: 3 }
    const corrected = correctedCost(cost, told, 0)
    for (const part of ['o', 'a', 'b', 'c'] as const) near(corrected[part]!, cost[part]!, 1e-9)
    near(corrected.s!, 1e-6 + 0.7 * 2e-6, 0.02)
    // What was moved while the run waited costs as much.
    const waited = correctedCost(cost, { ...told, waitSeconds: computeSeconds }, 0)
    near(waited.s!, 1e-6 + 0.7 * 5e-6, 0.02)
  })

  it('tells taking in from the linear part, where that is told, and finds what calibration had missed', () => {
    const work: Cost = { ...LONG, c: 1e5 }
    const pure = measure(LONG, COST)
    const takeInSeconds = 20
    const measured = { ...pure, work, computeSeconds: pure.computeSeconds + takeInSeconds, takeInSeconds }
    const corrected = correctedCost({ ...COST, c: 1e-4 }, measured, 0)
    for (const part of ['o', 'a', 'b'] as const) near(corrected[part], COST[part], 1e-9)
    near(corrected.c!, 1.7e-4, 0.02)
    near(correctedCost({ ...COST, c: 0 }, measured, 0).c!, 1.4e-4, 0.02)
    const { takeInSeconds: _, ...untold } = measured
    const blamed = correctedCost({ ...COST, c: 1e-4 }, untold, 0)
    assert.ok(blamed.a > 1.3 * COST.a)
    near(blamed.c! / blamed.a, 1e-4 / COST.a, 1e-9)
    const first = correctedCost({ ...COST, c: 1e-4 }, { ...pure, takeInSeconds: 1 }, 0)
    assert.deepEqual(first, { ...COST, c: 1e-4 })
  })

  it('takes it that sockets took what was predicted, where nobody tells', () => {
    const cost: Cost = { ...COST, s: 3e-6 }
    const work: Cost = { ...LONG, s: 1e6 }
    const pure = measure(LONG, COST)
    const computeSeconds = pure.computeSeconds + 3
    const attendSeconds = pure.attendSeconds * (computeSeconds / pure.computeSeconds)
    const corrected = correctedCost(cost, { work, computeSeconds, attendSeconds }, 0)
    for (const part of ['o', 'a', 'b', 's'] as const) near(corrected[part]!, cost[part]!, 1e-9)
  })

  it('is finite and never negative, whatever was measured', () => {
    const amount = fc.oneof(fc.constant(0), fc.double({ min: 1e-12, max: 1e12, noNaN: true }))
    const cost = fc.record({ o: amount, a: amount, b: amount, c: amount, s: amount, e: amount })
    const times = fc.record({
      computeSeconds: amount,
      attendSeconds: amount,
      movingSeconds: amount,
      waitSeconds: amount,
    })
    fc.assert(
      fc.property(cost, cost, times, fc.nat(50), fc.boolean(), (old, work, measured, seen, cold) => {
        const corrected = correctedCost(old, { work, ...measured }, seen, cold)
        for (const value of Object.values(corrected)) assert.ok(value! >= 0 && Number.isFinite(value), String(value))
      }),
      { seed: 3, numRuns: 500 },
    )
  })
})
