import assert from 'node:assert/strict'
import { describe, test } from 'node:test'
import { gatherRows, halvedIfExact } from '../../../worker/model/rows.ts'
import { narrowBf16, widenBf16 } from '../../../worker/model/widen.ts'

describe('rows of a table', () => {
  const table = Float32Array.of(1, -2, 0.5, 3, 0, -0.25)

  test('are gathered in the order of the ids, from float32 and from bfloat16', () => {
    const halved = halvedIfExact(table)
    assert.ok(halved instanceof Uint16Array)
    for (const rows of [table, halved]) {
      const out = new Float32Array(6)
      gatherRows(Int32Array.of(2, 0, 2), rows, 2, out)
      assert.deepEqual([...out], [0, -0.25, 1, -2, 0, -0.25])
    }
  })

  test('stay as they are where bfloat16 would change one of them', () => {
    const finer = Float32Array.of(1, 1 + 2 ** -12)
    assert.equal(halvedIfExact(finer), finer)
  })

  test('have no row for an id outside the vocabulary', () => {
    for (const id of [-1, 3])
      assert.throws(() => gatherRows(Int32Array.of(id), table, 2, new Float32Array(2)), { code: 'invalid_request' })
  })
})

describe('bfloat16', () => {
  const rounded = (...values: number[]): number[] => {
    const bits = new Uint16Array(values.length)
    narrowBf16(Float32Array.from(values), bits)
    const back = new Float32Array(values.length)
    widenBf16(bits, back)
    return [...back]
  }

  test('takes the nearest number, and of two equally near ones the even', () => {
    const step = 2 ** -7
    assert.deepEqual(rounded(1 + 0.4 * step, 1 + 0.6 * step, -1 - 0.6 * step), [1, 1 + step, -1 - step])
    assert.deepEqual(rounded(1 + 0.5 * step, 1 + 1.5 * step), [1, 1 + 2 * step])
  })

  test('keeps what is not finite', () => {
    assert.deepEqual(rounded(Infinity, -Infinity, NaN, 3.4e38), [Infinity, -Infinity, NaN, Infinity])
  })
})
