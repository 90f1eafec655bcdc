import { type Rows, widenRows } from '../../../model/rows.ts'
import type { GraphBuilder, Value } from '../graph-builder.ts'
import type { Dense, LinearFormat } from './linear.ts'

/** Float32 in the checkpoint's [out, in] order, which FusedMatMul takes as it is. */
export const f32Linear: LinearFormat<Dense> = {
  keep: (matrix) => matrix,
  keepRows: (values) => values,
  keepHead: (rows, dim) => [{ values_out_in: widened(rows, dim), out: rows.length / dim, in: dim }],
  multiplicand: (g, x, width) => (name, out) => matmulTransposed(g, x, g.input(name, [out, width])),
  slots: (name, { values_out_in, out, in: width }) => ({ [name]: [values_out_in, [out, width]] }),
}

function widened(rows: Rows, dim: number): Dense['values_out_in'] {
  if (rows instanceof Float32Array) return rows
  const values = new Float32Array(rows.length)
  widenRows(rows, dim, values)
  return values
}

/** alpha a b^T. */
export const matmulTransposed = (g: GraphBuilder, a: Value, b: Value, alpha = 1): Value =>
  g.op('FusedMatMul@com.microsoft', [a, b], { transA: 0, transB: 1, alpha: { float: alpha } })
