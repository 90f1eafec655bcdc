import assert from 'node:assert/strict'
import { describe, it } from 'node:test'
import fc from 'fast-check'
import { gather, routeRows, scatterAdd } from '../../../worker/engine/routing.ts'

const RATINGS = Float32Array.of(0, 1, 2, 3, /**/ 5, 5, 0, 0)

describe('the router', () => {
  it('sends each row to the experts it rates highest, of equal ones to the first', () => {
    const groups = routeRows(RATINGS, { count: 4, perToken: 2, ffn: 1, renormalised: true })
    assert.deepEqual(
      groups.map(({ expert, rows }) => [expert, ...rows]),
      [
        [0, 1],
        [1, 1],
        [2, 0],
        [3, 0],
      ],
    )
    assert.deepEqual([...groups[0]!.weights, ...groups[1]!.weights], [0.5, 0.5])
  })

  it('chooses what sorting all ratings would, ties included', () => {
    const ratings = fc.array(fc.integer({ min: -3, max: 3 }), { minLength: 1, maxLength: 12 })
    fc.assert(
      fc.property(ratings, fc.nat(), (of, most) => {
        const perToken = 1 + (most % of.length)
        const groups = routeRows(Float32Array.from(of), { count: of.length, perToken, ffn: 1, renormalised: false })
        const sorted = [...of.keys()].sort((a, b) => of[b]! - of[a]! || a - b).slice(0, perToken)
        assert.deepEqual(
          groups.map(({ expert }) => expert),
          sorted.sort((a, b) => a - b),
        )
      }),
    )
  })

  it('weighs among the chosen or among all, and stands ratings of any size', () => {
    const sumOf = (renormalised: boolean, ratings = RATINGS.subarray(0, 4)) =>
      routeRows(ratings, { count: 4, perToken: 2, ffn: 1, renormalised }).reduce((sum, g) => sum + g.weights[0]!, 0)
    assert.ok(Math.abs(sumOf(true) - 1) < 1e-7)
    assert.ok(Math.abs(sumOf(false) - (Math.E ** 2 + Math.E ** 3) / (1 + Math.E + Math.E ** 2 + Math.E ** 3)) < 1e-7)
    assert.equal(sumOf(true, Float32Array.of(-3000, 3000, 0, 0)), 1)
  })

  it('brings rows together and puts them back, weighted', () => {
    const rows = Int32Array.of(2, 0)
    const out = new Float32Array(4)
    gather(Float32Array.of(1, 2, 3, 4, 5, 6), 2, rows, out)
    assert.deepEqual([...out], [5, 6, 1, 2])
    const sum = new Float32Array(6).fill(1)
    scatterAdd(sum, 2, { expert: 0, rows, weights: Float32Array.of(2, 0.5) }, out)
    assert.deepEqual([...sum], [1.5, 2, 1, 1, 11, 13])
  })
})
