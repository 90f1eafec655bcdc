import assert from 'node:assert/strict'
import { describe, it } from 'node:test'
import { median, rotated, settledGrowth, speedUps, spreadOf } from './harness/statistics.ts'

describe('statistics of benchmarks', () => {
  it('finds the middle of an odd and of an even number of values, whatever their order', () => {
    assert.equal(median([5, 1, 3]), 3)
    assert.equal(median([10, 1, 2, 9]), 5.5)
    assert.ok(Number.isNaN(median([])))
  })

  it('does not change what it is given', () => {
    const values = [3, 1, 2]
    assert.deepEqual(spreadOf(values), { median: 2, min: 1, max: 3, count: 3 })
    assert.deepEqual(values, [3, 1, 2])
  })

  it('compares round by round, so that a slow spell cancels out', () => {
    assert.deepEqual(speedUps([10, 20], [5, 10]), [2, 2])
    assert.throws(() => speedUps([1, 2], [1]), /2 rounds of one, 1 of the other/)
  })

  it('begins every round one further on', () => {
    const orders = [0, 1, 2, 3].map((round) => rotated(['a', 'b', 'c'], round).join(''))
    assert.deepEqual(orders, ['abc', 'bca', 'cab', 'abc'])
  })

  it('calls growth what comes after the pools are filled', () => {
    assert.equal(settledGrowth([10, 50, 90, 90, 91, 90, 90, 90, 91]).growth, 0)
    assert.deepEqual(settledGrowth([0, 0, 1, 2, 3, 4, 5, 6, 7, 8]), { from: 2, to: 7, growth: 5 })
    assert.throws(() => settledGrowth([1, 2, 3]), /8 values or more/)
  })
})
