import assert from 'node:assert/strict'
import { createHash } from 'node:crypto'
import { describe, test } from 'node:test'
import { GGML_TYPES, type GgmlType } from '../../../shared/gguf/ggml-types.ts'
import { dequantise } from '../../../worker/model/dequantise.ts'
import { halfToSingle, widenF16 } from '../../../worker/model/widen.ts'
import { BLOCK_ELEMENTS, QUANTISERS, type QuantisedType, TYPE_IDS } from '../../support/gguf/quantise.ts'
import { seededRandom } from '../../support/random.ts'

const BLOCKS = 64

/** Where a block has its scales and minimums, halves that are kept below infinity. */
const HALVES: Readonly<Partial<Record<GgmlType, readonly number[]>>> = {
  Q4_1: [0, 2],
  Q5_1: [0, 2],
  Q4_K: [0, 2],
  Q5_K: [0, 2],
  Q6_K: [208],
}

/** The beginning of the SHA-256 of the float32 that ggml's Python package (gguf 0.19.0) makes of the same blocks. */
const KNOWN: Readonly<Partial<Record<GgmlType, string>>> = {
  Q8_0: '8bb77142f6e98117',
  Q4_0: '15980a52040860c6',
  Q4_1: 'd85182e3542dad27',
  Q5_0: '0c5603afdd2b67da',
  Q5_1: 'af296a3c3eaba5b0',
  Q4_K: 'a5d389ba5bf39279',
  Q5_K: '4c09eadc97bd3a97',
  Q6_K: '5c3710ab789f5ecf',
  F16: '7f064c0bd9fe9dcf',
  BF16: '2cd74cd9f43b7758',
}

function anyBlocks(type: GgmlType): Uint8Array {
  const { bytes } = GGML_TYPES[type]
  let state = 1
  const blocks = Uint8Array.from({ length: bytes * BLOCKS }, () => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0
    return state >>> 24
  })
  for (let block = 0; block < BLOCKS; block++)
    for (const half of HALVES[type] ?? [0]) blocks[block * bytes + half + 1]! &= 0xbf
  return blocks
}

test('every half has the float32 of its number', () => {
  const bits = Uint16Array.from({ length: 1 << 16 }, (_, i) => i)
  const out = new Float32Array(bits.length)
  widenF16(bits, out)
  assert.deepEqual(out, Float32Array.from(bits, halfToSingle))
})

describe('blocks of ggml', () => {
  for (const [type, known] of Object.entries(KNOWN) as [GgmlType, string][])
    test(`of ${type} have the values that ggml gives them, bit for bit`, () => {
      const out = new Float32Array(GGML_TYPES[type].elements * BLOCKS)
      dequantise(type, anyBlocks(type), out)
      const values = out.map((x) => x + 0) // no sign on a zero
      assert.equal(createHash('sha256').update(new Uint8Array(values.buffer)).digest('hex').slice(0, 16), known)
    })

  for (const type of Object.keys(QUANTISERS) as QuantisedType[])
    test(`of ${type} come back near what was quantised`, () => {
      const random = seededRandom(3)
      const values = Float32Array.from({ length: 512 }, () => 2 * random() - 1)
      const out = new Float32Array(512)
      dequantise(type, QUANTISERS[type](values), out)
      const bits = {
        F32: 24,
        BF16: 7,
        F16: 10,
        Q8_0: 7,
        Q6_K: 4.5,
        Q5_K: 4,
        Q5_0: 3.5,
        Q5_1: 4,
        Q4_0: 2.5,
        Q4_1: 3,
        Q4_K: 3,
      }
      values.forEach((x, i) => {
        assert.ok(Math.abs(x - out[i]!) <= 2 ** -bits[type], `${x} became ${out[i]}`)
      })
    })

  test('have the numbers and sizes that ggml has', () => {
    for (const type of Object.keys(QUANTISERS) as QuantisedType[]) {
      const { id, elements, bytes } = GGML_TYPES[type]
      assert.deepEqual([id, elements], [TYPE_IDS[type], BLOCK_ELEMENTS[type]])
      assert.equal(QUANTISERS[type](new Float32Array(elements)).length, bytes)
    }
  })
})
