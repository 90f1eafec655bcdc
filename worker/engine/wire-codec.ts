import type { Wire } from '../../shared/plan.ts'
import { roundToEven, singleToHalf, widenF16 } from '../model/widen.ts'
import type { EncodedKv } from './engine.ts'
import type { Floats } from './host-tensors.ts'

/**
 * The wire precisions as their formulas, in plain loops: what the reference engine sends and what the tests measure the
 * other engines by. Rows are K and V of one head and token each, in the order of the wire (see `Engine.exportKv`).
 */

/** The largest int8 that is used: the range is symmetric. */
export const INT8_MOST = 127
/** No number is divided by less: the smallest normal float32. A row below 127 times this is as good as zero. */
export const LEAST_DIVISOR = 2 ** -126

/** `undefined` if `wire` cannot hold every value: f16 ends at 65504, and neither it nor int8 may hide what is not finite. */
export function encodeRows(x_rows_hdim: Floats, headDim: number, wire: Wire): EncodedKv['bytes'] | undefined {
  if (wire === 'f32') return new Uint8Array(x_rows_hdim.slice().buffer)
  if (wire === 'f16') {
    const halves = Uint16Array.from(x_rows_hdim, singleToHalf)
    return allFiniteHalves(halves) ? new Uint8Array(halves.buffer) : undefined
  }
  return x_rows_hdim.every(Number.isFinite) ? quantise(x_rows_hdim, headDim) : undefined
}

/** The inverse of `encodeRows`, for bytes of the right length. */
export function decodeRows({ dtype, bytes }: EncodedKv, headDim: number): Floats {
  const { buffer } = bytes.slice() // the bytes need not be aligned
  if (dtype === 'f32') return new Float32Array(buffer)
  if (dtype === 'f16') {
    const x_rows_hdim = new Float32Array(bytes.length / 2)
    widenF16(new Uint16Array(buffer), x_rows_hdim)
    return x_rows_hdim
  }
  const rows = bytes.length / (4 + headDim)
  const scale_rows = new Float32Array(buffer, 0, rows)
  const q_rows_hdim = new Int8Array(buffer, 4 * rows)
  return Float32Array.from(q_rows_hdim, (q, i) => q * scale_rows[Math.floor(i / headDim)]!)
}

/** Whether no half is an infinity or not a number: the exponent of one of these is all ones. Four at a time: it is timed. */
export function allFiniteHalves(halves: Uint16Array): boolean {
  let found = 0
  const whole = halves.length - (halves.length % 4)
  for (let i = 0; i < whole; i += 4)
    found |=
      ((halves[i]! & 0x7c00) + 0x400) |
      ((halves[i + 1]! & 0x7c00) + 0x400) |
      ((halves[i + 2]! & 0x7c00) + 0x400) |
      ((halves[i + 3]! & 0x7c00) + 0x400)
  for (let i = whole; i < halves.length; i++) found |= (halves[i]! & 0x7c00) + 0x400
  return (found & 0x8000) === 0
}

/** Scales of all rows, then the rows: x = scale q, where the largest of a row is 127. */
function quantise(x_rows_hdim: Floats, headDim: number): EncodedKv['bytes'] {
  const rows = x_rows_hdim.length / headDim
  const bytes = new Uint8Array(rows * (4 + headDim))
  const scale_rows = new Float32Array(bytes.buffer, 0, rows)
  const q_rows_hdim = new Int8Array(bytes.buffer, 4 * rows)
  for (let row = 0; row < rows; row++) {
    const x_hdim = x_rows_hdim.subarray(row * headDim, (row + 1) * headDim)
    scale_rows[row] = Math.max(...x_hdim.map(Math.abs)) / INT8_MOST
    const divisor = Math.max(scale_rows[row]!, LEAST_DIVISOR)
    q_rows_hdim.set(
      Array.from(x_hdim, (x) => roundToEven(x / divisor)),
      row * headDim,
    )
  }
  return bytes
}
