import assert from 'node:assert/strict'
import { describe, test } from 'node:test'
import fc from 'fast-check'
import { keyRanges } from '../../../worker/engine/key-ranges.ts'

describe('key ranges', () => {
  test('leave the mask to the chunk itself', () => {
    assert.deepEqual(keyRanges({ start: 512, tokens: 256 }, 0, 2048, 400), [
      { start: 0, count: 400, masked: false },
      { start: 400, count: 112, masked: false },
      { start: 512, count: 256, masked: true },
    ])
  })

  test('need no mask for a single query', () => {
    assert.deepEqual(keyRanges({ start: 9, tokens: 1 }, 0, 64, 512), [{ start: 0, count: 10, masked: false }])
  })

  test('hold every visible key once, in calls no larger than allowed, and mask what not all may see', () => {
    const small = fc.integer({ min: 0, max: 60 })
    const size = fc.integer({ min: 1, max: 40 })
    fc.assert(
      fc.property(small, size, small, size, size, fc.option(size), (start, tokens, kvStart, capacity, most, window) => {
        const reach = window ?? 1000
        const ranges = keyRanges({ start, tokens }, kvStart, kvStart + capacity, most, window ?? undefined)
        const keys = ranges.flatMap((r) => Array.from({ length: r.count }, (_, i) => r.start + i))
        const visible = Array.from({ length: capacity }, (_, i) => kvStart + i).filter(
          (key) => key < start + tokens && key > start - reach,
        )
        assert.deepEqual(keys, visible)
        for (const { start: from, count, masked } of ranges) {
          assert.ok(count >= 1 && count <= most)
          if (!masked) assert.ok(from + count - 1 <= start && from > start + tokens - 1 - reach)
        }
      }),
      { seed: 2 },
    )
  })
})
