import { halvedIfExact, rowReader } from '../../../model/rows.ts'
import type { Floats } from '../../host-tensors.ts'
import type { LinearFormat } from './linear.ts'

/** One scale to a block of inputs of an output. */
export interface Int8Blocks {
  /** Around 128, [out, blocks, BLOCK]. */
  readonly values_out_in: Uint8Array<ArrayBuffer>
  readonly scales_out_block: Floats
  readonly out: number
  readonly in: number
}

const BLOCK = 64
const ZERO = 128
const LARGEST = 127
/** The operator rounds activations to 8 bits too, each block by its own largest. */
const IN_8_BITS = 4

/**
 * 8-bit weights in blocks, as llama.cpp's Q8_0 has them. One operator quantises a row by blocks of its own, multiplies and
 * scales; for many rows it has less than half the speed of `int8Linear`. Weights must be part of the model, so their sizes
 * are known.
 */
export const int8BlocksLinear: LinearFormat<Int8Blocks> = {
  keep: ({ values_out_in, out, in: width }) =>
    quantised(out, width, (row) => values_out_in.subarray(row * width, (row + 1) * width)),
  keepRows: halvedIfExact,
  keepHead: (rows, dim) => [quantised(rows.length / dim, dim, rowReader(rows, dim))],
  multiplicand: (g, x, width) => (name, out) => {
    const blocks = Math.ceil(width / BLOCK)
    const values = g.input(name, [out, blocks, BLOCK], 'uint8')
    const scales = g.input(`${name}_scale`, [out, blocks])
    const attributes = { K: width, N: out as number, bits: 8, block_size: BLOCK, accuracy_level: IN_8_BITS }
    return g.op('MatMulNBits@com.microsoft', [x, values, scales], attributes)
  },
  slots: (name, { values_out_in, scales_out_block, in: width, out }) => {
    const blocks = Math.ceil(width / BLOCK)
    return {
      [name]: [values_out_in, [out, blocks, BLOCK]],
      [`${name}_scale`]: [scales_out_block, [out, blocks]],
    }
  },
}

function quantised(out: number, width: number, rowOf: (row: number) => Float32Array): Int8Blocks {
  const blocks = Math.ceil(width / BLOCK)
  const values_out_in = new Uint8Array(out * blocks * BLOCK).fill(ZERO)
  const scales_out_block = new Float32Array(out * blocks)
  for (let r = 0; r < out; r++) {
    const row = rowOf(r)
    for (let block = 0; block < blocks; block++) {
      const first = block * BLOCK
      const end = Math.min(width, first + BLOCK)
      let most = 0
      for (let i = first; i < end; i++) most = Math.max(most, Math.abs(row[i]!))
      const scale = most / LARGEST
      scales_out_block[r * blocks + block] = scale
      const inverse = scale > 0 ? 1 / scale : 0
      for (let i = first, to = r * blocks * BLOCK + first; i < end; i++, to++)
        values_out_in[to] = ZERO + Math.round(row[i]! * inverse)
    }
  }
  return { values_out_in, scales_out_block, out, in: width }
}
