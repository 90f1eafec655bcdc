import assert from 'node:assert/strict'
import { describe, it } from 'node:test'
import { groupsOf } from '../../../coordinator/planning/about-equal.ts'

describe('values that are about equal', () => {
  it('are one group up to a factor of its least', () => {
    assert.deepEqual(groupsOf([6, 1, 1.2, 4, 1.29, 1.31, 1.6], 1.3), [3, 0, 0, 2, 0, 1, 1])
    assert.deepEqual(groupsOf([], 1.3), [])
    assert.deepEqual(groupsOf([0, 0, 3], 1.3), [0, 1, 2])
    assert.deepEqual(groupsOf([Number.POSITIVE_INFINITY, 2, 2], 1.3), [1, 0, 0])
  })
})
