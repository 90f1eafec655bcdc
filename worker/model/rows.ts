import { HeadraceError } from '../../shared/errors.ts'
import { narrowBf16, widenBf16 } from './widen.ts'

/**
 * A table of vectors, one to a token id: float32, the bits of bfloat16 where that loses nothing, or bytes with a scale to
 * a row.
 */
export type Rows = Float32Array<ArrayBuffer> | Uint16Array<ArrayBuffer> | ByteRows

export interface ByteRows {
  readonly values_row_dim: Int8Array<ArrayBuffer>
  readonly scale_row: Float32Array<ArrayBuffer>
  /** Numbers in the table. */
  readonly length: number
}

/** The vectors of these ids below each other. An id outside the table is `invalid_request`. */
export function gatherRows(ids_seq: Int32Array, rows: Rows, dim: number, out_seq_dim: Float32Array): void {
  const count = rows.length / dim
  ids_seq.forEach((id, at) => {
    if (id < 0 || id >= count)
      throw new HeadraceError('invalid_request', `token id ${id} is outside the vocabulary of ${count}`)
    widenRow(rows, id, out_seq_dim.subarray(at * dim, (at + 1) * dim))
  })
}

/** Multiplies in place. */
export function scaleRows(x: Float32Array, by: number): void {
  if (by !== 1) for (let i = 0; i < x.length; i++) x[i] = x[i]! * by
}

/** All of a table. */
export function widenRows(rows: Rows, dim: number, out: Float32Array): void {
  for (let row = 0; row < rows.length / dim; row++) widenRow(rows, row, out.subarray(row * dim, (row + 1) * dim))
}

function widenRow(rows: Rows, row: number, out_dim: Float32Array): void {
  const [from, end] = [row * out_dim.length, (row + 1) * out_dim.length]
  if (rows instanceof Float32Array) out_dim.set(rows.subarray(from, end))
  else if (rows instanceof Uint16Array) widenBf16(rows.subarray(from, end), out_dim)
  else for (let i = 0; i < out_dim.length; i++) out_dim[i] = rows.values_row_dim[from + i]! * rows.scale_row[row]!
}

/** Half the memory if every number survives it, else the same table. */
export function halvedIfExact(values: Float32Array<ArrayBuffer>): Rows {
  const words = new Uint32Array(values.buffer, values.byteOffset, values.length)
  for (let i = 0; i < words.length; i++) if ((words[i]! & 0xffff) !== 0) return values
  const bits = new Uint16Array(values.length)
  narrowBf16(values, bits)
  return bits
}

const LARGEST_BYTE = 127

/** A quarter of the memory, each number rounded to a 127th of the largest of its row. */
export function byteRows(values: Float32Array<ArrayBuffer>, dim: number): ByteRows {
  const values_row_dim = new Int8Array(values.length)
  const scale_row = new Float32Array(values.length / dim)
  for (let row = 0; row < scale_row.length; row++) {
    let most = 0
    for (let i = row * dim; i < (row + 1) * dim; i++) most = Math.max(most, Math.abs(values[i]!))
    scale_row[row] = most / LARGEST_BYTE
    const inverse = most > 0 ? LARGEST_BYTE / most : 0
    for (let i = row * dim; i < (row + 1) * dim; i++) values_row_dim[i] = Math.round(values[i]! * inverse)
  }
  return { values_row_dim, scale_row, length: values.length }
}

/** Whether two tables, kept in the same way, are equal. */
export function sameRows(a: Rows, b: Rows): boolean {
  if ('scale_row' in a)
    return 'scale_row' in b && sameBytes(a.values_row_dim, b.values_row_dim) && sameBytes(a.scale_row, b.scale_row)
  return !('scale_row' in b) && sameBytes(a, b)
}

const sameBytes = (a: NodeJS.TypedArray, b: NodeJS.TypedArray): boolean =>
  Buffer.from(a.buffer, a.byteOffset, a.byteLength).equals(Buffer.from(b.buffer, b.byteOffset, b.byteLength))

/** One row at a time as float32, valid until the next. */
export function rowReader(rows: Rows, dim: number): (row: number) => Float32Array {
  const one = new Float32Array(dim)
  return (row) => {
    widenRow(rows, row, one)
    return one
  }
}
