import { halfToSingle } from '../../../model/widen.ts'
import { BLOCK_BYTES, blocksOfRow, INT4_BLOCK, type Int4Matrix } from './int4.ts'
import type { Int8Matrix } from './int8.ts'

/**
 * Blocks of quantised weights as GGUF files store them (ggml, ggml-common.h), into what the kernels here multiply by, with
 * no float32 matrix in between. Rows are outputs; a block is 32 inputs of one, so `in` must be a multiple of 32 and `bytes`
 * as long as the matrix needs: the caller has checked both.
 */

const STORED_BLOCK = 32
/** Both kinds of block begin with their scale in half precision. */
const SCALE_BYTES = 2
/** Bytes of a block of Q4_0: weight i < 16 in the low half of byte i, weight 16 + i in its high half. */
export const Q4_0_BYTES = SCALE_BYTES + STORED_BLOCK / 2
/** Bytes of a block of Q8_0: a signed byte to each weight. */
export const Q8_0_BYTES = SCALE_BYTES + STORED_BLOCK

/** The same numbers, bit by bit: only the order of the halves of bytes differs. */
export function fromQ4_0(bytes: Uint8Array, out: number, width: number): Int4Matrix {
  const blocks = out * blocksOfRow(width)
  const nibbles_out_in = new Uint8Array(blocks * BLOCK_BYTES)
  const scales_out_block = new Uint16Array(blocks)
  for (let block = 0, from = 0, to = 0; block < blocks; block++, from += Q4_0_BYTES, to += BLOCK_BYTES) {
    scales_out_block[block] = halfAt(bytes, from)
    const first = from + SCALE_BYTES
    for (let pair = 0; pair < INT4_BLOCK / 4; pair++) {
      const [even, odd] = [bytes[first + 2 * pair]!, bytes[first + 2 * pair + 1]!]
      nibbles_out_in[to + pair] = (even & 15) | ((odd & 15) << 4)
      nibbles_out_in[to + BLOCK_BYTES / 2 + pair] = (even >> 4) | (odd & 0xf0)
    }
  }
  return { nibbles_out_in, scales_out_block, out, in: width }
}

/**
 * One scale to an output, for which all blocks but the one with the largest weight are rounded anew.
 *
 * @param largest see `int8Linear`
 */
export function fromQ8_0(bytes: Uint8Array, out: number, width: number, largest: number): Int8Matrix {
  const blocks = width / STORED_BLOCK
  const signed = new Int8Array(bytes.buffer, bytes.byteOffset, bytes.byteLength)
  const values_in_out = new Int8Array(width * out)
  const scale_out = new Float32Array(out)
  const scale_block = new Float64Array(blocks)
  for (let o = 0; o < out; o++) {
    const row = o * blocks * Q8_0_BYTES
    let most = 0
    for (let block = 0; block < blocks; block++) {
      const from = row + block * Q8_0_BYTES
      scale_block[block] = halfToSingle(halfAt(bytes, from))
      let mostSteps = 0
      for (let i = from + SCALE_BYTES; i < from + Q8_0_BYTES; i++) mostSteps = Math.max(mostSteps, Math.abs(signed[i]!))
      most = Math.max(most, mostSteps * Math.abs(scale_block[block]!))
    }
    scale_out[o] = most / largest
    const inverse = most > 0 ? largest / most : 0
    for (let i = 0, to = o; i < width; i++, to += out) {
      const block = Math.floor(i / STORED_BLOCK)
      const steps = signed[row + block * Q8_0_BYTES + SCALE_BYTES + (i % STORED_BLOCK)]!
      values_in_out[to] = Math.round(steps * scale_block[block]! * inverse)
    }
  }
  return { values_in_out, scale_out, in: width, out }
}

/** Little-endian, as the whole file is. */
const halfAt = (bytes: Uint8Array, at: number): number => bytes[at]! | (bytes[at + 1]! << 8)
