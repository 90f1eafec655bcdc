import { widenF16 } from '../../../worker/model/widen.ts'
import { toHalf } from '../../bench/models/encoding.ts'

/**
 * Quantisers for tests: what they write is what ggml's types mean, though not the best that could be written. Each turns
 * the numbers of whole blocks into bytes. Signed scales are avoided: ggml allows them, nothing here needs them.
 */
export const QUANTISERS = {
  F32: f32,
  F16: f16,
  BF16: bf16,
  Q8_0: q8_0,
  Q4_0: q4_0,
  Q4_1: q4_1,
  Q5_0: q5_0,
  Q5_1: q5_1,
  Q4_K: q4_K,
  Q5_K: q5_K,
  Q6_K: q6_K,
}
export type QuantisedType = keyof typeof QUANTISERS

export const TYPE_IDS: Readonly<Record<QuantisedType, number>> = {
  F32: 0,
  F16: 1,
  BF16: 30,
  Q4_0: 2,
  Q4_1: 3,
  Q5_0: 6,
  Q5_1: 7,
  Q8_0: 8,
  Q4_K: 12,
  Q5_K: 13,
  Q6_K: 14,
}
export const BLOCK_ELEMENTS: Readonly<Record<QuantisedType, number>> = {
  F32: 1,
  F16: 1,
  BF16: 1,
  Q4_0: 32,
  Q4_1: 32,
  Q5_0: 32,
  Q5_1: 32,
  Q8_0: 32,
  Q4_K: 256,
  Q5_K: 256,
  Q6_K: 256,
}

function f32(values: Float32Array): Uint8Array {
  return new Uint8Array(values.slice().buffer)
}

function f16(values: Float32Array): Uint8Array {
  const halves = Uint16Array.from(values, (x) => (x < 0 ? 0x8000 : 0) | toHalf(Math.abs(x)))
  return new Uint8Array(halves.buffer)
}

function bf16(values: Float32Array): Uint8Array {
  const words = new Uint32Array(values.slice().buffer)
  return new Uint8Array(Uint16Array.from(words, (word) => word >>> 16).buffer)
}

const halfBytes = (value: number) => [toHalf(value) & 255, toHalf(value) >> 8]
function rounded(value: number): number {
  const out = new Float32Array(1)
  widenF16(Uint16Array.of(toHalf(value)), out)
  return out[0]!
}

function inBlocks(values: Float32Array, elements: number, encode: (block: number[]) => number[]): Uint8Array {
  const bytes: number[] = []
  for (let at = 0; at < values.length; at += elements) bytes.push(...encode([...values.subarray(at, at + elements)]))
  return Uint8Array.from(bytes)
}

const largest = (block: readonly number[]) => Math.max(...block.map(Math.abs))
const clamp = (value: number, least: number, most: number) => Math.min(most, Math.max(least, Math.round(value)))
const levels = (block: readonly number[], scale: number, least: number, most: number) =>
  block.map((x) => (scale === 0 ? 0 : clamp(x / scale, least, most)))

function q8_0(values: Float32Array): Uint8Array {
  return inBlocks(values, 32, (block) => {
    const scale = rounded(largest(block) / 127)
    return [...halfBytes(scale), ...levels(block, scale, -127, 127).map((q) => q & 255)]
  })
}

/** Number i below number i + 16 in one byte. */
const paired = (nibbles: readonly number[]) =>
  Array.from({ length: 16 }, (_, i) => nibbles[i]! | (nibbles[i + 16]! << 4))

function q4_0(values: Float32Array): Uint8Array {
  return inBlocks(values, 32, (block) => {
    const scale = rounded(largest(block) / 7)
    return [...halfBytes(scale), ...paired(levels(block, scale, -8, 7).map((q) => q + 8))]
  })
}

/** A scale, and a minimum which is not above zero: ggml stores it as it is in Q4_1 and Q5_1, negated in the K types. */
function range(block: readonly number[], most: number): { scale: number; least: number } {
  const least = Math.min(0, ...block)
  return { scale: (Math.max(0, ...block) - least) / most, least }
}

/** A half of either sign. */
const signedHalf = (value: number) => {
  const bits = (value < 0 ? 0x8000 : 0) | toHalf(Math.abs(value))
  return [bits & 255, bits >> 8]
}

function affine(block: readonly number[], most: number) {
  const { scale, least } = range(block, most)
  const [s, m] = [rounded(scale), -rounded(-least)]
  const q = block.map((x) => (s === 0 ? 0 : clamp((x - m) / s, 0, most)))
  return { head: [...halfBytes(s), ...signedHalf(m)], q }
}

const fifthBits = (q: readonly number[]) =>
  Array.from({ length: 4 }, (_, byte) =>
    q.slice(8 * byte, 8 * byte + 8).reduce((bits, x, i) => bits | ((x >> 4) << i), 0),
  )

function q4_1(values: Float32Array): Uint8Array {
  return inBlocks(values, 32, (block) => {
    const { head, q } = affine(block, 15)
    return [...head, ...paired(q)]
  })
}

function q5_0(values: Float32Array): Uint8Array {
  return inBlocks(values, 32, (block) => {
    const scale = rounded(largest(block) / 15)
    const q = levels(block, scale, -16, 15).map((x) => x + 16)
    return [...halfBytes(scale), ...fifthBits(q), ...paired(q.map((x) => x & 15))]
  })
}

function q5_1(values: Float32Array): Uint8Array {
  return inBlocks(values, 32, (block) => {
    const { head, q } = affine(block, 31)
    return [...head, ...fifthBits(q), ...paired(q.map((x) => x & 15))]
  })
}

/** Scales and minimums of eight sub-blocks in six bits each, and the numbers in `most` levels. */
function superBlock(block: readonly number[], most: number) {
  const parts = Array.from({ length: 8 }, (_, j) => block.slice(32 * j, 32 * j + 32))
  const ranges = parts.map((part) => range(part, most))
  const scale = rounded(Math.max(...ranges.map((r) => r.scale)) / 63)
  const least = rounded(Math.max(...ranges.map((r) => -r.least)) / 63)
  const scales = ranges.map((r) => (scale === 0 ? 0 : clamp(r.scale / scale, 0, 63)))
  const leasts = ranges.map((r) => (least === 0 ? 0 : clamp(-r.least / least, 0, 63)))
  const q = parts.flatMap((part, j) => {
    const step = scale * scales[j]!
    return part.map((x) => (step === 0 ? 0 : clamp((x + least * leasts[j]!) / step, 0, most)))
  })
  const packed = [
    ...[0, 1, 2, 3].map((j) => scales[j]! | ((scales[j + 4]! >> 4) << 6)),
    ...[0, 1, 2, 3].map((j) => leasts[j]! | ((leasts[j + 4]! >> 4) << 6)),
    ...[4, 5, 6, 7].map((j) => (scales[j]! & 15) | ((leasts[j]! & 15) << 4)),
  ]
  return { head: [...halfBytes(scale), ...halfBytes(least), ...packed], q }
}

/** Sub-blocks 2 j and 2 j + 1 share 32 bytes. */
const nibblesOf = (q: readonly number[]) =>
  [0, 1, 2, 3].flatMap((j) =>
    Array.from({ length: 32 }, (_, i) => (q[64 * j + i]! & 15) | ((q[64 * j + 32 + i]! & 15) << 4)),
  )

function q4_K(values: Float32Array): Uint8Array {
  return inBlocks(values, 256, (block) => {
    const { head, q } = superBlock(block, 15)
    return [...head, ...nibblesOf(q)]
  })
}

function q5_K(values: Float32Array): Uint8Array {
  return inBlocks(values, 256, (block) => {
    const { head, q } = superBlock(block, 31)
    const high = Array.from({ length: 32 }, (_, i) =>
      [0, 1, 2, 3, 4, 5, 6, 7].reduce((bits, j) => bits | ((q[32 * j + i]! >> 4) << j), 0),
    )
    return [...head, ...high, ...nibblesOf(q)]
  })
}

function q6_K(values: Float32Array): Uint8Array {
  return inBlocks(values, 256, (block) => {
    const parts = Array.from({ length: 16 }, (_, j) => block.slice(16 * j, 16 * j + 16))
    const scale = rounded(Math.max(...parts.map((part) => largest(part) / 31)) / 127)
    const scales = parts.map((part) => (scale === 0 ? 0 : clamp(largest(part) / 31 / scale, 0, 127)))
    const q = parts.flatMap((part, j) => levels(part, scale * scales[j]!, -32, 31).map((x) => x + 32))
    const low = [0, 1].flatMap((half) =>
      Array.from({ length: 64 }, (_, i) => (q[128 * half + i]! & 15) | ((q[128 * half + 64 + i]! & 15) << 4)),
    )
    const high = [0, 1].flatMap((half) =>
      Array.from({ length: 32 }, (_, i) =>
        [0, 1, 2, 3].reduce((bits, quarter) => bits | ((q[128 * half + 32 * quarter + i]! >> 4) << (2 * quarter)), 0),
      ),
    )
    return [...low, ...high, ...scales, ...halfBytes(scale)]
  })
}
