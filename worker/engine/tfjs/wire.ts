import type { Wire } from '../../../shared/plan.ts'
import { wireBytes } from '../../../shared/wire-bytes.ts'
import { widenF16 } from '../../model/widen.ts'
import type { EncodedKv } from '../engine.ts'
import { exportHostKv, type Floats, type HostKv, importHostKv } from '../host-tensors.ts'
import { INT8_MOST, LEAST_DIVISOR } from '../wire-codec.ts'

/** The wire precisions, bit for bit as `wire-codec.ts` has them, at a speed that does not count beside a layer. */

type Bytes = EncodedKv['bytes']

/** `Engine.exportKv`. */
export function encodeKv(kv: HostKv, start: number, count: number, wire: Wire): EncodedKv {
  const narrow = wire === 'f32' ? undefined : new Uint8Array(wireBytes(kv, count, wire))
  const encode = wire === 'f16' ? encodeHalves : encodeInt8
  if (narrow !== undefined && encode(kv.ranges(start, count), kv.headDim, narrow)) return { dtype: wire, bytes: narrow }
  return { dtype: 'f32', bytes: new Uint8Array(exportHostKv(kv, start, count).buffer) }
}

/** `Engine.importKv`, for bytes of the right length. */
export function decodeKv(kv: HostKv, start: number, count: number, { dtype, bytes }: EncodedKv): void {
  const aligned = bytes.byteOffset % 4 === 0 ? bytes : bytes.slice()
  if (dtype === 'f16') decodeHalves(aligned, kv.ranges(start, count))
  else if (dtype === 'int8') decodeInt8(aligned, kv.ranges(start, count), kv.headDim)
  else importHostKv(kv, start, count, bytes)
}

/** Bits of float32: the smallest normal half, what the exponents' biases differ by, and 1/2. */
const LEAST_NORMAL = 0x38800000
const BIAS_DIFFERENCE = 0x38000000
const ONE_HALF = 0x3f000000
const HALF_INFINITY = 0x7c00

/** To nearest, ties to even. False if a value is no finite half. */
function encodeHalves(ranges: readonly Floats[], _headDim: number, out: Bytes): boolean {
  const halves = new Uint16Array(out.buffer)
  const small = new Float32Array(1)
  const smallBits = new Uint32Array(small.buffer)
  let at = 0
  for (const values of ranges) {
    const words = new Uint32Array(values.buffer, values.byteOffset, values.length)
    for (let i = 0; i < words.length; i++) {
      const size = words[i]! & 0x7fffffff
      let half: number
      if (size >= LEAST_NORMAL) {
        const rebased = size - BIAS_DIFFERENCE
        half = (rebased + 0xfff + ((rebased >>> 13) & 1)) >>> 13 // a carry out of the fraction raises the exponent
        if (half >= HALF_INFINITY) return false
      } else {
        small[0] = Math.abs(values[i]!) + 0.5 // whose last place is that of the halves below the normal ones
        half = smallBits[0]! - ONE_HALF
      }
      halves[at++] = ((words[i]! >>> 16) & 0x8000) | half
    }
  }
  return true
}

function decodeHalves(bytes: Bytes, ranges: readonly Floats[]): void {
  let from = bytes.byteOffset
  for (const values of ranges) {
    widenF16(new Uint16Array(bytes.buffer, from, values.length), values)
    from += 2 * values.length
  }
}

/** Doubles of this size have no places below 1: adding it rounds to whole numbers, ties to even. */
const ROUNDER = 1.5 * 2 ** 52

/** False if a value is not finite. */
function encodeInt8(ranges: readonly Floats[], headDim: number, out: Bytes): boolean {
  const { scale_rows, q_rows_hdim } = int8Parts(out, headDim)
  let row = 0
  for (const values of ranges)
    for (let from = 0; from < values.length; from += headDim, row++) {
      let most = 0
      let nothing = 0 // unless a value is not finite
      for (let i = from; i < from + headDim; i++) {
        const value = values[i]!
        most = Math.max(most, Math.abs(value))
        nothing += value - value
      }
      if (nothing !== 0) return false
      scale_rows[row] = most / INT8_MOST
      const divisor = Math.max(scale_rows[row]!, LEAST_DIVISOR)
      for (let i = 0; i < headDim; i++) q_rows_hdim[row * headDim + i] = values[from + i]! / divisor + ROUNDER - ROUNDER
    }
  return true
}

function decodeInt8(bytes: Bytes, ranges: readonly Floats[], headDim: number): void {
  const { scale_rows, q_rows_hdim } = int8Parts(bytes, headDim)
  let row = 0
  for (const values of ranges)
    for (let from = 0; from < values.length; from += headDim, row++) {
      const scale = scale_rows[row]!
      for (let i = 0; i < headDim; i++) values[from + i] = scale * q_rows_hdim[row * headDim + i]!
    }
}

/** The scales of all rows, then the rows. */
function int8Parts({ buffer, byteOffset, length }: Bytes, headDim: number) {
  const rows = length / (4 + headDim)
  return {
    scale_rows: new Float32Array(buffer, byteOffset, rows),
    q_rows_hdim: new Int8Array(buffer, byteOffset + 4 * rows, rows * headDim),
  }
}
