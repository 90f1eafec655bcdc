import { byteRows } from '../../../model/rows.ts'
import type { Floats } from '../../host-tensors.ts'
import { BLOCK_BYTES, blocksOfRow, INT4_BLOCK, type Int4Matrix, int4Scales, quantiseInt4, widenInt4 } from './int4.ts'
import { type Int8Matrix, int8Linear } from './int8.ts'
import { type Int8Blocks, int8BlocksLinear } from './int8-blocks.ts'
import type { LinearFormat } from './linear.ts'
import { fromQ4_0 } from './stored-blocks.ts'

/** The operator rounds activations to 8 bits, each block by its own largest. */
const IN_8_BITS = 4

/**
 * Four-bit weights for single tokens: one operator quantises a row, multiplies and scales. Weights must be part of the
 * model, where they are packed. The head has 8 bits: rounding it to 4 would cost more than that of a whole layer.
 */
export const int4BlocksLinear: LinearFormat<Int4Matrix | Int8Blocks> = {
  keep: quantiseInt4,
  keepStored: { Q4_0: fromQ4_0 },
  keepRows: byteRows,
  keepHead: int8BlocksLinear.keepHead,
  head: int8BlocksLinear.multiplicand,
  multiplicand: (g, x, width) => (name, out) => {
    const blocks = blocksOfRow(width)
    const values = g.input(name, [out, blocks, BLOCK_BYTES], 'uint8')
    const scales = g.input(`${name}_scale`, [out, blocks])
    const attributes = { K: width, N: out as number, bits: 4, block_size: INT4_BLOCK, accuracy_level: IN_8_BITS }
    return g.op('MatMulNBits@com.microsoft', [x, values, scales], attributes)
  },
  slots: (name, matrix) => {
    if ('values_out_in' in matrix) return int8BlocksLinear.slots(name, matrix)
    const blocks = blocksOfRow(matrix.in)
    return {
      [name]: [matrix.nibbles_out_in, [matrix.out, blocks, BLOCK_BYTES]],
      [`${name}_scale`]: [int4Scales(matrix), [matrix.out, blocks]],
    }
  },
}

/**
 * The same weights for many tokens at once: widened to 8 bits just before they are used, since products of bytes have
 * three times the speed of the operator above. A prefill takes all its tokens through a layer before it goes on, so it
 * widens each matrix once.
 *
 * @param largestWeight see `int8Linear`
 */
export function int4WidenedLinear(largestWeight: number): LinearFormat<Int4Matrix | Int8Matrix> {
  const int8 = int8Linear(largestWeight)
  const scratch = new Map<string, { holds: Int4Matrix; values: Int8Array<ArrayBuffer>; scale_out: Floats }>()
  return {
    keep: quantiseInt4,
    keepStored: { Q4_0: fromQ4_0 },
    keepRows: byteRows,
    keepHead: int8.keepHead,
    multiplicand: int8.multiplicand,
    slots: (name, matrix) => {
      if ('values_in_out' in matrix) return int8.slots(name, matrix)
      const { out, in: width } = matrix
      const held = scratch.get(name)
      const values = held?.values ?? new Int8Array(width * out)
      const scale_out = held?.scale_out ?? new Float32Array(out)
      if (held?.holds !== matrix) widenInt4(matrix, largestWeight, { values_in_out: values, scale_out })
      scratch.set(name, { holds: matrix, values, scale_out })
      return int8.slots(name, { values_in_out: values, scale_out, in: width, out })
    },
  }
}
