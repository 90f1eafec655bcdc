import assert from 'node:assert/strict'
import { describe, it } from 'node:test'
import { blocksOf, evenPieces } from '../../shared/plan.ts'

describe('cutting spans', () => {
  it('makes KV blocks of each span by itself', () => {
    const spans = [
      { start: 0, end: 1300 },
      { start: 2000, end: 2512 },
    ]
    assert.deepEqual(
      blocksOf(spans, 512).map(({ start, end }) => [start, end]),
      [
        [0, 434],
        [434, 868],
        [868, 1300],
        [2000, 2512],
      ],
    )
  })

  it('makes pieces of about the same length, as few as are allowed', () => {
    const lengths = (tokens: number) =>
      evenPieces([{ start: 7, end: 7 + tokens }], 384).map(({ start, end }) => end - start)
    assert.deepEqual(lengths(1), [1])
    assert.deepEqual(lengths(300), [300])
    assert.deepEqual(lengths(384), [384])
    assert.deepEqual(lengths(385), [193, 192])
    assert.deepEqual(lengths(512), [256, 256])
    assert.deepEqual(evenPieces([], 384), [])
  })
})
