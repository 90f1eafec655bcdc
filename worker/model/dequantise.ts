import type { GgmlType } from '../../shared/gguf/ggml-types.ts'
import { halfToSingle, widenBf16, widenF16 } from './widen.ts'

/**
 * ggml's blocks to float32, exactly as its `dequantize_row_*` (ggml-quants.c): products of a half and small whole
 * numbers are exact in float32, so that only the subtraction of a minimum rounds. `bytes` are whole blocks, `out` as many
 * numbers as they hold.
 */
export function dequantise(type: GgmlType, bytes: Uint8Array, out: Float32Array): void {
  DEQUANTISERS[type](bytes, out)
}

type Dequantiser = (bytes: Uint8Array, out: Float32Array) => void

const DEQUANTISERS: Readonly<Record<GgmlType, Dequantiser>> = {
  F32: (bytes, out) => new Uint8Array(out.buffer, out.byteOffset, out.byteLength).set(bytes),
  F16: (bytes, out) => widenF16(words(bytes), out),
  BF16: (bytes, out) => widenBf16(words(bytes), out),
  Q8_0: blocks(34, 32, q8_0),
  Q4_0: blocks(18, 32, q4_0),
  Q4_1: blocks(20, 32, q4_1),
  Q5_0: blocks(22, 32, q5_0),
  Q5_1: blocks(24, 32, q5_1),
  Q4_K: blocks(144, 256, q4_K),
  Q5_K: blocks(176, 256, q5_K),
  Q6_K: blocks(210, 256, q6_K),
}

/** One block at byte `b` into 32 or 256 numbers from `o` on. */
type Block = (bytes: Uint8Array, b: number, out: Float32Array, o: number) => void

function blocks(blockBytes: number, elements: number, block: Block): Dequantiser {
  return (bytes, out) => {
    for (let b = 0, o = 0; b < bytes.length; b += blockBytes, o += elements) block(bytes, b, out, o)
  }
}

function words(bytes: Uint8Array): Uint16Array {
  if (bytes.byteOffset % 2 === 0) return new Uint16Array(bytes.buffer, bytes.byteOffset, bytes.length / 2)
  return new Uint16Array(bytes.slice().buffer)
}

const half = (bytes: Uint8Array, at: number): number => halfToSingle(bytes[at]! | (bytes[at + 1]! << 8))
const signed = (byte: number): number => (byte << 24) >> 24

function q8_0(bytes: Uint8Array, b: number, out: Float32Array, o: number): void {
  const scale = half(bytes, b)
  for (let i = 0; i < 32; i++) out[o + i] = scale * signed(bytes[b + 2 + i]!)
}

/** Byte `i` has number `i` in its low half and number `i + 16` in its high one. */
function q4_0(bytes: Uint8Array, b: number, out: Float32Array, o: number): void {
  const scale = half(bytes, b)
  for (let i = 0; i < 16; i++) {
    const byte = bytes[b + 2 + i]!
    out[o + i] = scale * ((byte & 15) - 8)
    out[o + i + 16] = scale * ((byte >> 4) - 8)
  }
}

function q4_1(bytes: Uint8Array, b: number, out: Float32Array, o: number): void {
  const [scale, least] = [half(bytes, b), half(bytes, b + 2)]
  for (let i = 0; i < 16; i++) {
    const byte = bytes[b + 4 + i]!
    out[o + i] = scale * (byte & 15) + least
    out[o + i + 16] = scale * (byte >> 4) + least
  }
}

/** The fifth bits of the 32 numbers stand together before their low four. */
function q5_0(bytes: Uint8Array, b: number, out: Float32Array, o: number): void {
  const scale = half(bytes, b)
  for (let i = 0; i < 16; i++) {
    const byte = bytes[b + 6 + i]!
    out[o + i] = scale * (((byte & 15) | fifth(bytes, b + 2, i)) - 16)
    out[o + i + 16] = scale * (((byte >> 4) | fifth(bytes, b + 2, i + 16)) - 16)
  }
}

function q5_1(bytes: Uint8Array, b: number, out: Float32Array, o: number): void {
  const [scale, least] = [half(bytes, b), half(bytes, b + 2)]
  for (let i = 0; i < 16; i++) {
    const byte = bytes[b + 8 + i]!
    out[o + i] = scale * ((byte & 15) | fifth(bytes, b + 4, i)) + least
    out[o + i + 16] = scale * ((byte >> 4) | fifth(bytes, b + 4, i + 16)) + least
  }
}

const fifth = (bytes: Uint8Array, at: number, i: number): number => ((bytes[at + (i >> 3)]! >> (i & 7)) & 1) << 4

/**
 * The 6-bit scale and minimum of sub-block `j` of eight, packed in twelve bytes: the first four plainly, the others with
 * their low four bits in the last four bytes and their high two above the first ones.
 */
const scaleOf = (bytes: Uint8Array, at: number, j: number): number =>
  j < 4 ? bytes[at + j]! & 63 : (bytes[at + j + 4]! & 15) | ((bytes[at + j - 4]! >> 6) << 4)
const minimumOf = (bytes: Uint8Array, at: number, j: number): number =>
  j < 4 ? bytes[at + j + 4]! & 63 : (bytes[at + j + 4]! >> 4) | ((bytes[at + j]! >> 6) << 4)

/** Eight sub-blocks of 32; two share 32 bytes, one the low halves, the next the high ones. */
function q4_K(bytes: Uint8Array, b: number, out: Float32Array, o: number): void {
  const [scales, leasts] = [half(bytes, b), half(bytes, b + 2)]
  for (let j = 0; j < 8; j++) {
    const scale = scales * scaleOf(bytes, b + 4, j)
    const least = leasts * minimumOf(bytes, b + 4, j)
    const from = b + 16 + (j >> 1) * 32
    const shift = (j & 1) * 4
    for (let i = 0; i < 32; i++) out[o + j * 32 + i] = scale * ((bytes[from + i]! >> shift) & 15) - least
  }
}

/** As Q4_K, and bit `j` of 32 bytes more is the fifth of sub-block `j`. */
function q5_K(bytes: Uint8Array, b: number, out: Float32Array, o: number): void {
  const [scales, leasts] = [half(bytes, b), half(bytes, b + 2)]
  for (let j = 0; j < 8; j++) {
    const scale = scales * scaleOf(bytes, b + 4, j)
    const least = leasts * minimumOf(bytes, b + 4, j)
    const from = b + 48 + (j >> 1) * 32
    const shift = (j & 1) * 4
    for (let i = 0; i < 32; i++) {
      const high = ((bytes[b + 16 + i]! >> j) & 1) << 4
      out[o + j * 32 + i] = scale * (((bytes[from + i]! >> shift) & 15) | high) - least
    }
  }
}

/**
 * Two halves of 128; each has its four quarters of 32 in the low halves of 64 bytes, then in their high ones, with two
 * more bits of every quarter in 32 bytes. A signed scale serves 16 numbers.
 */
function q6_K(bytes: Uint8Array, b: number, out: Float32Array, o: number): void {
  const scales = half(bytes, b + 208)
  for (let j = 0; j < 8; j++) {
    const [part, quarter] = [j >> 2, j & 3]
    const low = b + part * 64 + (quarter & 1) * 32
    const high = b + 128 + part * 32
    const shift = (quarter >> 1) * 4
    for (let i = 0; i < 32; i++) {
      const scale = scales * signed(bytes[b + 192 + j * 2 + (i >> 4)]!)
      const bits = ((bytes[low + i]! >> shift) & 15) | (((bytes[high + i]! >> (quarter * 2)) & 3) << 4)
      out[o + j * 32 + i] = scale * (bits - 32)
    }
  }
}
