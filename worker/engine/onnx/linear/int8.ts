import { halvedIfExact, rowReader } from '../../../model/rows.ts'
import type { Floats } from '../../host-tensors.ts'
import type { GraphBuilder, Value } from '../graph-builder.ts'
import type { LinearFormat, Multiplicand } from './linear.ts'
import { fromQ8_0 } from './stored-blocks.ts'

/** One scale to an output, and the quantised matrix in [in, out] order. */
export interface Int8Matrix {
  readonly values_in_out: Int8Array<ArrayBuffer>
  readonly scale_out: Floats
  readonly in: number
  readonly out: number
}

/** What stands for 0 in unsigned activations: the fast kernels multiply unsigned by signed. */
export const ZERO = 128
export const LARGEST_ACTIVATION = 127
/** The remainder of a rounded activation is at most half a step, and is cut into as many steps as a byte has. */
export const FINE_STEPS = 2 * LARGEST_ACTIVATION
/** A row of nothing but zeros must not divide by zero. */
export const SMALLEST = 1e-30

/**
 * 8-bit products. Activations are quantised per row (token) when they come, weights per output when they are loaded:
 * y = (x / unit) W^T unit, with x / unit rounded to whole numbers up to 127. Where the product is to be fine, what
 * rounding took away is multiplied too, as 254 times finer steps.
 *
 * @param largestWeight 127; 63 where the processor's kernel adds pairs of products in 16 bits
 */
export const int8Linear = (largestWeight: number): LinearFormat<Int8Matrix> => ({
  keep: ({ values_out_in, out, in: width }) =>
    quantised(out, width, largestWeight, (row) => values_out_in.subarray(row * width, (row + 1) * width)),
  keepStored: { Q8_0: (bytes, out, width) => fromQ8_0(bytes, out, width, largestWeight) },
  keepRows: halvedIfExact,
  keepHead: (rows, dim) => [quantised(rows.length / dim, dim, largestWeight, rowReader(rows, dim))],
  multiplicand,
  slots: (name, { values_in_out, scale_out, in: width, out }) => ({
    [name]: [values_in_out, [width, out]],
    [`${name}_scale`]: [scale_out, [out]],
  }),
})

function multiplicand(g: GraphBuilder, x: Value, width: number, fine = false): Multiplicand {
  const one = g.float(1)
  const zero = g.byte(ZERO)
  const x_rows_width = g.op('Reshape', [x, g.ints(-1, width)])
  const largest_rows = g.op('ReduceMax', [g.op('Abs', [x_rows_width]), g.ints(-1)], { keepdims: 0 })
  const unit_rows = g.op('Mul', [g.op('Max', [largest_rows, g.float(SMALLEST)]), g.float(1 / LARGEST_ACTIVATION)])
  const zero_rows = g.op('QuantizeLinear', [g.op('Sub', [unit_rows, unit_rows]), one, zero])
  const perRow = (operator: string, of: Value, scale_rows: Value): Value =>
    g.op(operator, [of, scale_rows, zero_rows], { axis: 0 })
  const product = (a: Value, scale: number, weight: Value, weightScale: Value): Value =>
    g.op('MatMulIntegerToFloat@com.microsoft', [a, weight, g.float(scale), weightScale, zero])

  const coarse = perRow('QuantizeLinear', x_rows_width, unit_rows)
  const whatIsLeft = (): Value => {
    const left = g.op('Sub', [x_rows_width, perRow('DequantizeLinear', coarse, unit_rows)])
    return perRow('QuantizeLinear', left, g.op('Mul', [unit_rows, g.float(1 / FINE_STEPS)]))
  }
  const left = fine ? whatIsLeft() : undefined
  const unit_rows_1 = g.op('Reshape', [unit_rows, g.ints(-1, 1)])
  return (name, out) => {
    const weight = g.input(name, [width, out], 'int8')
    const scale_out = g.input(`${name}_scale`, [out])
    const first = product(coarse, 1, weight, scale_out)
    const sum = left === undefined ? first : g.op('Add', [first, product(left, 1 / FINE_STEPS, weight, scale_out)])
    return g.op('Unsqueeze', [g.op('Mul', [sum, unit_rows_1]), g.ints(0)])
  }
}

/** Columns that are written side by side: a row alone would touch a cache line for every number. */
const TILE = 64

function quantised(out: number, width: number, largest: number, rowOf: (row: number) => Float32Array): Int8Matrix {
  const values_in_out = new Int8Array(width * out)
  const scale_out = new Float32Array(out)
  const tile = new Int8Array(TILE * width)
  for (let first = 0; first < out; first += TILE) {
    const rows = Math.min(TILE, out - first)
    for (let r = 0; r < rows; r++) {
      const row = rowOf(first + r)
      let most = 0
      for (let i = 0; i < width; i++) most = Math.max(most, Math.abs(row[i]!))
      const scale = most / largest
      scale_out[first + r] = scale
      const inverse = scale > 0 ? 1 / scale : 0
      for (let i = 0; i < width; i++) tile[r * width + i] = Math.round(row[i]! * inverse)
    }
    for (let i = 0; i < width; i++)
      for (let r = 0, to = i * out + first; r < rows; r++, to++) values_in_out[to] = tile[r * width + i]!
  }
  return { values_in_out, scale_out, in: width, out }
}
