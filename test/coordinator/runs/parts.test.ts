import assert from 'node:assert/strict'
import { describe, it } from 'node:test'
import { checkedGap } from '../../../coordinator/runs/parts.ts'
import { coded } from '../../support/coded.ts'
import { chainPlan } from '../../support/scripted-runs.ts'

describe('what a decode node says is missing', () => {
  const plan = chainPlan(1000) // blocks of 256

  it('is a block of the plan, or part of one', () => {
    for (const gap of [
      { start: 0, end: 256, layer: 0 },
      { start: 999, end: 1000, layer: 7 },
    ])
      assert.equal(checkedGap(gap, plan), gap)
  })

  it('is else refused before it is cut into blocks', () => {
    for (const gap of [
      { start: 0, end: 2 ** 31 - 1, layer: 0 },
      { start: -256, end: 0, layer: 0 },
      { start: 5, end: 5, layer: 0 },
      { start: 0, end: 257, layer: 0 },
      { start: 990, end: 1001, layer: 0 },
      { start: 0, end: 1, layer: -1 },
    ])
      assert.throws(() => checkedGap(gap, plan), coded('frame_bad_schema'))
  })
})
