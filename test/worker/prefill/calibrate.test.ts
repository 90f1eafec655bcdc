import assert from 'node:assert/strict'
import { describe, it } from 'node:test'
import fc from 'fast-check'
import { readModelShape } from '../../../shared/model-folder.ts'
import { fitCost, layerKinds, spreadOverhead, typicalCost, typicalPoints } from '../../../worker/prefill/calibrate.ts'
import { fixture } from '../../support/paths.ts'

const POINTS = [
  [32, 0],
  [128, 0],
  [256, 0],
  [256, 2048],
  [256, 4096],
] as const

describe("the fit of a worker's cost", () => {
  it('finds the coefficients that made the timings', () => {
    const positive = (max: number) => fc.double({ min: max / 1e4, max, noNaN: true })
    fc.assert(
      fc.property(positive(1e-2), positive(1e-3), positive(1e-6), (o, a, b) => {
        const found = fitCost(POINTS.map(([n, p]) => ({ n, p, seconds: o + a * n + b * n * (p + n / 2) })))
        for (const [n, p] of [
          [1000, 0],
          [700, 30_000],
        ] as const) {
          const truth = o + a * n + b * n * (p + n / 2)
          const guess = found.o + found.a * n + found.b * n * (p + n / 2)
          assert.ok(Math.abs(guess / truth - 1) < 1e-4, `${guess} instead of ${truth}`)
        }
      }),
      { seed: 5 },
    )
  })

  it('tells attention from the rest, unless its calls end before their work does', () => {
    const chunk = 256
    const points = POINTS.map(([n, p]) => {
      const attendSeconds = 1e-4 + 2e-6 * n + 1e-8 * n * (p + n / 2)
      return { n, p, seconds: 3e-4 + 1e-5 * n + attendSeconds, attendSeconds }
    })
    const { a, b, e } = typicalCost(points, chunk)
    for (const [found, truth] of [
      [a, 1.2e-5 + 4e-4 / chunk],
      [b, 1e-8],
      [e!, 2e-6 + 1e-4 / chunk],
    ] as const)
      assert.ok(Math.abs(found / truth - 1) < 1e-6, `${found} instead of ${truth}`)
    const early = points.map((point) => ({ ...point, attendSeconds: 1e-4 }))
    assert.equal(typicalCost(early, chunk).e, undefined)
  })

  it('counts a launch for every chunk of a span', () => {
    const chunk = 256
    const { o, a, b } = spreadOverhead({ o: 1e-3, a: 1e-5, b: 0 }, chunk)
    assert.equal(b, 0)
    for (const n of [200, 1000, 5000]) {
      const truth = 1e-3 * Math.ceil(n / chunk) + 1e-5 * n
      assert.ok(Math.abs(o + a * n - truth) <= 0.5e-3 + 1e-12, String(n))
    }
  })

  it('never gives a negative coefficient, whatever the noise', () => {
    const noise = fc.array(fc.double({ min: 0.2, max: 5, noNaN: true }), { minLength: 5, maxLength: 5 })
    fc.assert(
      fc.property(noise, (factors) => {
        const { o, a, b } = fitCost(
          POINTS.map(([n, p], i) => ({ n, p, seconds: factors[i]! * (1e-4 + 1e-5 * n + 1e-8 * n * (p + n / 2)) })),
        )
        return o >= 0 && a >= 0 && b >= 0 && o + a + b > 0
      }),
      { seed: 6 },
    )
  })

  it('times a layer of every kind', async () => {
    const kindsOf = async (folder: string) => layerKinds(await readModelShape(fixture(folder)))
    assert.deepEqual(await kindsOf('llama'), [{ layer: 0, share: 1 }])
    assert.deepEqual(
      (await kindsOf('gemma3')).map(({ layer, share }) => [layer, Math.round(share * 6)]),
      [
        [0, 5],
        [5, 1],
      ],
    )
  })

  describe('what is typical of several rounds', () => {
    const round = (...seconds: number[]) =>
      seconds.map((each, i) => ({ n: POINTS[i]![0], p: POINTS[i]![1], seconds: each, attendSeconds: each / 4 }))
    const seconds = (...rounds: ReturnType<typeof round>[]) => typicalPoints(rounds).map((point) => point.seconds)

    it('is a single round as it is, and of several not the first', () => {
      assert.deepEqual(seconds(round(1, 2)), [1, 2])
      assert.deepEqual(seconds(round(100, 100), round(1, 2), round(1, 2)), [1, 2])
    })

    it('has the proportions of the least, and all the time that the rounds took', () => {
      // Whatever piece it hits, a pause is a part of the time that all of them take.
      const expected = [1.5, 3]
      for (const pauses of [
        [3, 0, 0, 0],
        [0, 0, 0, 3],
        [0, 3, 0, 0],
      ]) {
        const [w, x, y, z] = pauses as [number, number, number, number]
        assert.deepEqual(seconds(round(9, 9), round(1 + w, 2 + x), round(1 + y, 2 + z)), expected)
      }
    })
  })
})
