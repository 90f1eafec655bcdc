import { HeadraceError } from '../../shared/errors.ts'
import { narrowBf16, widenBf16 } from './widen.ts'

/** A table of vectors, one to a token id: float32, or the bits of bfloat16 where that loses nothing. */
export type Rows = Float32Array<ArrayBuffer> | Uint16Array<ArrayBuffer>

/** The vectors of these ids below each other. An id outside the table is `invalid_request`. */
export function gatherRows(ids_seq: Int32Array, rows: Rows, dim: number, out_seq_dim: Float32Array): void {
  const count = rows.length / dim
  ids_seq.forEach((id, at) => {
    if (id < 0 || id >= count)
      throw new HeadraceError('invalid_request', `token id ${id} is outside the vocabulary of ${count}`)
    widenRows(rows.subarray(id * dim, (id + 1) * dim), out_seq_dim.subarray(at * dim, (at + 1) * dim))
  })
}

/** Multiplies in place. */
export function scaleRows(x: Float32Array, by: number): void {
  if (by !== 1) for (let i = 0; i < x.length; i++) x[i] = x[i]! * by
}

export function widenRows(rows: Rows, out: Float32Array): void {
  if (rows instanceof Float32Array) out.set(rows)
  else widenBf16(rows, out)
}

/** Half the memory if every number survives it, else the same table. */
export function halvedIfExact(values: Float32Array<ArrayBuffer>): Rows {
  const words = new Uint32Array(values.buffer, values.byteOffset, values.length)
  for (let i = 0; i < words.length; i++) if ((words[i]! & 0xffff) !== 0) return values
  const bits = new Uint16Array(values.length)
  narrowBf16(values, bits)
  return bits
}

/** One row at a time as float32, valid until the next. */
export function rowReader(rows: Rows, dim: number): (row: number) => Float32Array {
  const one = new Float32Array(dim)
  return (row) => {
    widenRows(rows.subarray(row * dim, (row + 1) * dim), one)
    return one
  }
}
