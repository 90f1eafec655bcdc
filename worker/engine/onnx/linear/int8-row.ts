import type { GraphBuilder, Value } from '../graph-builder.ts'
import { FINE_STEPS, type Int8Matrix, LARGEST_ACTIVATION, SMALLEST, ZERO } from './int8.ts'
import { type Int8Blocks, int8BlocksLinear } from './int8-blocks.ts'
import type { FormatInUse, Multiplicand, RowFormat } from './linear.ts'

/**
 * The matrices of `int8Linear` for a single row, as in decoding, where reading them is all the work: its operators for rows
 * of their own scales would take longer than that. Packed, they are read one and a half times as fast as blocks. But what
 * is to be fine is in blocks, where a large entry of the row spoils its own block alone. The head's row is in two, the
 * second of what rounding the first took away: the head is read once for both.
 */
export const int8RowLinear = (many: FormatInUse<Int8Matrix>): RowFormat<Int8Matrix | Int8Blocks, Int8Matrix> => ({
  keep: (matrix, kept) => (matrix.fine ? int8BlocksLinear.keep(matrix) : kept),
  keepRows: many.keepRows,
  keepHead: many.keepHead,
  multiplicand: (g, x, width, fine) => (fine ? int8BlocksLinear.multiplicand(g, x, width) : oneRow(g, x, width)),
  head: twoRows,
  slots: (name, matrix) =>
    'values_in_out' in matrix ? many.slots(name, matrix) : int8BlocksLinear.slots(name, matrix),
})

function oneRow(g: GraphBuilder, x: Value, width: number): Multiplicand {
  const [row, unit, zero] = g.ops(3, 'DynamicQuantizeLinear', [x])
  return (name, out) => product(g, row!, { name, out, width, unit: unit!, zero: zero! })
}

function twoRows(g: GraphBuilder, x: Value, width: number): Multiplicand {
  const zero = g.byte(ZERO)
  const x_1_width = g.op('Reshape', [x, g.ints(1, width)])
  const largest = g.op('ReduceMax', [g.op('Abs', [x_1_width])], { keepdims: 0 })
  const unit = g.op('Mul', [g.op('Max', [largest, g.float(SMALLEST)]), g.float(1 / LARGEST_ACTIVATION)])
  const coarse = g.op('QuantizeLinear', [x_1_width, unit, zero])
  const left = g.op('Sub', [x_1_width, g.op('DequantizeLinear', [coarse, unit, zero])])
  const finer = g.op('QuantizeLinear', [left, g.op('Mul', [unit, g.float(1 / FINE_STEPS)]), zero])
  const x_2_width = g.op('Concat', [coarse, finer], { axis: 0 })
  const steps_1_2 = g.floats([1, 2], 1, 1 / FINE_STEPS)
  return (name, out) => {
    const both = product(g, x_2_width, { name, out, width, unit, zero })
    return g.op('Unsqueeze', [g.op('MatMul', [steps_1_2, both]), g.ints(0)])
  }
}

interface Factor {
  readonly name: string
  readonly out: number | string
  readonly width: number
  /** What one step of the row is, and what stands for 0 in it. */
  readonly unit: Value
  readonly zero: Value
}

function product(g: GraphBuilder, rows: Value, { name, out, width, unit, zero }: Factor): Value {
  const weight = g.input(name, [width, out], 'int8')
  const scale_out = g.input(`${name}_scale`, [out])
  return g.op('MatMulIntegerToFloat@com.microsoft', [rows, weight, unit, scale_out, zero])
}
