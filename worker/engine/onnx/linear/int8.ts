import { halvedIfExact, rowReader } from '../../../model/rows.ts'
import type { Floats } from '../../host-tensors.ts'
import type { GraphBuilder, Value } from '../graph-builder.ts'
import type { LinearFormat, Multiplicand } from './linear.ts'

/** One scale to an output, and the quantised matrix in [in, out] order. */
export interface Int8Matrix {
  readonly values_in_out: Int8Array<ArrayBuffer>
  readonly scale_out: Floats
  readonly in: number
  readonly out: number
}

/** What stands for 0 in unsigned activations: the fast kernels multiply unsigned by signed. */
const ZERO = 128
const LARGEST_ACTIVATION = 127
/** The remainder of a rounded activation is at most half a step, and is cut into as many steps as a byte has. */
const FINE_STEPS = 2 * LARGEST_ACTIVATION
/** A row of nothing but zeros must not divide by zero. */
const SMALLEST = 1e-30

/**
 * 8-bit products. Activations are quantised per row (token) when they come, weights per output when they are loaded:
 * y = (x / unit) W^T unit, with x / unit rounded to whole numbers up to 127. Where x has outliers, what rounding took
 * away is multiplied too, as 254 times finer steps; it is a second half of the same product's rows.
 *
 * @param largestWeight 127; 63 where the processor's kernel adds pairs of products in 16 bits
 */
export const int8Linear = (largestWeight: number): LinearFormat<Int8Matrix> => ({
  keep: ({ values_out_in, out, in: width }) =>
    quantised(out, width, largestWeight, (row) => values_out_in.subarray(row * width, (row + 1) * width)),
  keepRows: halvedIfExact,
  keepHead: (rows, dim) => [quantised(rows.length / dim, dim, largestWeight, rowReader(rows, dim))],
  multiplicand,
  slots: (name, { values_in_out, scale_out, in: width, out }) => ({
    [name]: [values_in_out, [width, out]],
    [`${name}_scale`]: [scale_out, [out]],
  }),
})

function multiplicand(g: GraphBuilder, x: Value, width: number, outliers = false): Multiplicand {
  const one = g.float(1)
  const zero = g.byte(ZERO)
  const largest = g.op('ReduceMax', [g.op('Abs', [x]), g.ints(-1)], { keepdims: 1 })
  const unit = g.op('Mul', [g.op('Max', [largest, g.float(SMALLEST)]), g.float(1 / LARGEST_ACTIVATION)])
  const scaled = g.op('Div', [x, unit])
  const coarse = g.op('QuantizeLinear', [scaled, one, zero])
  const times = (a: Value, name: string, out: number | string): Value =>
    g.op('MatMulIntegerToFloat@com.microsoft', [
      a,
      g.input(name, [width, out], 'int8'),
      one,
      g.input(`${name}_scale`, [out]),
      zero,
    ])
  if (!outliers) return (name, out) => g.op('Mul', [times(coarse, name, out), unit])

  const rest = g.op('Sub', [scaled, g.op('DequantizeLinear', [coarse, one, zero])])
  const fine = g.op('QuantizeLinear', [rest, g.float(1 / FINE_STEPS), zero])
  const both = g.op('Concat', [coarse, fine], { axis: -2 })
  return (name, out) => {
    const halves = g.ops(2, 'Split', [times(both, name, out)], { axis: -2, num_outputs: 2 })
    const fineShare = g.op('Mul', [halves[1]!, g.float(1 / FINE_STEPS)])
    return g.op('Mul', [g.op('Add', [halves[0]!, fineShare]), unit])
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
