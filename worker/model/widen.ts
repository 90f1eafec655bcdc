/** bfloat16 is the upper half of a float32. `out` and `bits` have the same length. */
export function widenBf16(bits: Uint16Array, out: Float32Array): void {
  const words = new Uint32Array(out.buffer, out.byteOffset, out.length)
  for (let i = 0; i < bits.length; i++) words[i] = bits[i]! << 16
}

const HALF_INFINITY = 0x7c00
const LEAST_NORMAL_HALF = 0x400
/** What the exponents of the two are apart, where a float32 has its own. */
const REBIAS = (127 - 15) << 23

/** IEEE 754 half precision to single, exactly. `out` and `bits` have the same length. */
export function widenF16(bits: Uint16Array, out: Float32Array): void {
  const words = new Uint32Array(out.buffer, out.byteOffset, out.length)
  for (let i = 0; i < bits.length; i++) {
    const half = bits[i]!
    const size = half & 0x7fff
    if (size < LEAST_NORMAL_HALF || size >= HALF_INFINITY) out[i] = halfToSingle(half)
    else words[i] = ((half & 0x8000) << 16) | ((size << 13) + REBIAS)
  }
}

/** IEEE 754 half precision bits as a number. */
export function halfToSingle(bits: number): number {
  const sign = bits & 0x8000 ? -1 : 1
  const exponent = (bits >> 10) & 0x1f
  const fraction = bits & 0x3ff
  if (exponent === 0) return sign * fraction * 2 ** -24
  if (exponent === 31) return fraction ? Number.NaN : sign * Number.POSITIVE_INFINITY
  return sign * (1024 + fraction) * 2 ** (exponent - 25)
}

/** The nearest bfloat16, ties to even. `bits` and `values` have the same length. */
export function narrowBf16(values: Float32Array, bits: Uint16Array): void {
  const words = new Uint32Array(values.buffer, values.byteOffset, values.length)
  for (let i = 0; i < words.length; i++) {
    const word = words[i]!
    const notANumber = (word & 0x7fffffff) > 0x7f800000
    // rounding could carry a NaN over into infinity
    bits[i] = notANumber ? (word >>> 16) | 0x40 : (word + 0x7fff + ((word >>> 16) & 1)) >>> 16
  }
}

const one = new Float32Array(1)
const wordOfOne = new Uint32Array(one.buffer)

/** IEEE 754 half precision bits of a float32, to nearest, ties to even. A carry out of the fraction raises the exponent. */
export function singleToHalf(value: number): number {
  one[0] = value
  const word = wordOfOne[0]!
  const sign = (word >>> 16) & 0x8000
  if (Number.isNaN(value)) return sign | 0x7e00
  const size = Math.abs(one[0])
  if (size >= 65520) return sign | 0x7c00 // half way from the largest half to what would be the next
  const exponent = Math.max(-14, ((word >>> 23) & 0xff) - 127)
  return sign | (((exponent + 14) << 10) + roundToEven(size * 2 ** (10 - exponent)))
}

/** A whole number, ties to the even one. */
export function roundToEven(x: number): number {
  const below = Math.floor(x)
  const above = x - below
  return above > 0.5 || (above === 0.5 && below % 2 !== 0) ? below + 1 : below
}
