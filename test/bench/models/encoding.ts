import { widenBf16 } from '../../../worker/model/widen.ts'

/** How a file holds numbers. `Q8_0` is ggml's: 32 signed bytes and their common scale, a half. */
export const ENCODINGS = ['BF16', 'F32', 'Q8_0'] as const
export type Encoding = (typeof ENCODINGS)[number]

/** Numbers of a `Q8_0` block, and its bytes. */
const Q8_VALUES = 32
const Q8_BYTES = 34

export function encodedBytes(encoding: Encoding, elements: number): number {
  if (encoding === 'Q8_0') return (elements / Q8_VALUES) * Q8_BYTES
  return elements * (encoding === 'F32' ? 4 : 2)
}

/** Encodes one row; its length must be a multiple of 32 for `Q8_0`. */
export class RowEncoder {
  readonly #encoding: Encoding
  readonly #singles: Float32Array

  constructor(encoding: Encoding, columns: number) {
    this.#encoding = encoding
    this.#singles = new Float32Array(columns)
  }

  encode(bf16_columns: Uint16Array, out: Uint8Array): void {
    if (this.#encoding === 'BF16') {
      out.set(new Uint8Array(bf16_columns.buffer, bf16_columns.byteOffset, bf16_columns.byteLength))
      return
    }
    widenBf16(bf16_columns, this.#singles)
    if (this.#encoding === 'F32') out.set(new Uint8Array(this.#singles.buffer))
    else quantise(this.#singles, out)
  }
}

/** As ggml's `quantize_row_q8_0_ref`: the largest of a block becomes 127, halves are rounded away from zero. */
function quantise(values: Float32Array, out: Uint8Array): void {
  const bytes = new Int8Array(out.buffer, out.byteOffset, out.byteLength)
  for (let from = 0, at = 0; from < values.length; from += Q8_VALUES, at += Q8_BYTES) {
    let largest = 0
    for (let i = from; i < from + Q8_VALUES; i++) {
      const size = Math.abs(values[i]!)
      if (size > largest) largest = size
    }
    const scale = Math.fround(largest / 127)
    const inverse = scale === 0 ? 0 : Math.fround(1 / scale)
    const half = toHalf(scale)
    bytes[at] = half
    bytes[at + 1] = half >> 8
    for (let i = 0; i < Q8_VALUES; i++) {
      const x = Math.fround(values[from + i]! * inverse)
      bytes[at + 2 + i] = x < 0 ? x - 0.5 : x + 0.5 // storing cuts the fraction off
    }
  }
}

/** IEEE half precision bits of a number in `[0, 65504]`; a carry out of the fraction rightly raises the exponent. */
export function toHalf(value: number): number {
  const exponent = Math.max(-14, Math.floor(Math.log2(value || 2 ** -24)))
  const fraction = Math.round(value / 2 ** (exponent - 10))
  return value < 2 ** -14 ? fraction : ((exponent + 14) << 10) + fraction
}
