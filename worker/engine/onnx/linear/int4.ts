import { singleToHalf, widenF16 } from '../../../model/widen.ts'
import type { Dense } from './linear.ts'

/** Weights that share a scale: as many as in a block of GGUF's Q4_0, so that those are taken as they are. */
export const INT4_BLOCK = 32
export const BLOCK_BYTES = INT4_BLOCK / 2
/** A nibble stands for itself less this: -8 to 7. */
const ZERO = 8

/** Four bits a weight in blocks along the inputs, in the order of MatMulNBits: weight = scale (nibble - 8). */
export interface Int4Matrix {
  /** [out, blocks, BLOCK_BYTES]: an even input in a byte's low half, the next one in its high half. */
  readonly nibbles_out_in: Uint8Array<ArrayBuffer>
  /** Half precision, as bits. */
  readonly scales_out_block: Uint16Array<ArrayBuffer>
  readonly out: number
  readonly in: number
}

export const blocksOfRow = (width: number): number => Math.ceil(width / INT4_BLOCK)

/**
 * What the largest weight of a block is rounded to: the ends of the range are -8 and 7, and what lies a little beyond them
 * may be cut off if that serves the rest. More candidates gain less than 1 % of the error.
 */
const CANDIDATES = [-8.5, -7.9, -7.3, -6.7]

/**
 * To the nearest of 16 steps. The step of each block is the one of several that leaves the least sum of squared errors, and
 * of each the least-squares fit to its rounded weights.
 */
export function quantiseInt4({ values_out_in, out, in: width }: Dense): Int4Matrix {
  const blocks = blocksOfRow(width)
  const nibbles_out_in = new Uint8Array(out * blocks * BLOCK_BYTES)
  const scales_out_block = new Uint16Array(out * blocks)
  const block = new Float64Array(INT4_BLOCK)
  for (let r = 0, at = 0; r < out; r++)
    for (let first = 0; first < width; first += INT4_BLOCK, at++) {
      const count = Math.min(INT4_BLOCK, width - first)
      block.fill(0, count)
      for (let i = 0; i < count; i++) block[i] = values_out_in[r * width + first + i]!
      const { inverse, scale } = bestSteps(block)
      scales_out_block[at] = singleToHalf(scale)
      for (let i = 0; i < BLOCK_BYTES; i++)
        nibbles_out_in[at * BLOCK_BYTES + i] =
          nibble(block[2 * i]! * inverse) | (nibble(block[2 * i + 1]! * inverse) << 4)
    }
  return { nibbles_out_in, scales_out_block, out, in: width }
}

/** Weights times `inverse` are rounded, and rounded weights times `scale` are the weights. */
function bestSteps(block: Float64Array): { inverse: number; scale: number } {
  let extreme = 0
  for (let i = 0; i < block.length; i++) if (Math.abs(block[i]!) > Math.abs(extreme)) extreme = block[i]!
  let best = { inverse: 0, scale: 0 }
  if (extreme === 0) return best
  let mostExplained = 0
  for (const candidate of CANDIDATES) {
    const inverse = candidate / extreme
    let product = 0
    let square = 0
    for (let i = 0; i < block.length; i++) {
      const step = nibble(block[i]! * inverse) - ZERO
      product += block[i]! * step
      square += step * step
    }
    // the error is the sum of squared weights less this, if the scale is product / square
    const explained = (product * product) / square
    if (explained <= mostExplained) continue
    mostExplained = explained
    best = { inverse, scale: product / square }
  }
  return best
}

/** `steps` rounded and cut to -8 .. 7, plus 8. */
function nibble(steps: number): number {
  const rounded = (steps + (ZERO + 0.5)) | 0
  return rounded < 0 ? 0 : rounded > 15 ? 15 : rounded
}

/** The scales as float32. */
export function int4Scales({ scales_out_block }: Int4Matrix): Float32Array<ArrayBuffer> {
  const scales = new Float32Array(scales_out_block.length)
  widenF16(scales_out_block, scales)
  return scales
}

/** Outputs that are written side by side: one alone would touch a cache line for every number. */
const TILE = 64

/**
 * The same matrix with 8 bits and one scale to an output, [in, out]. Steps of 8 bits are much finer than those that are
 * widened: what rounding adds to their error cannot be seen.
 */
export function widenInt4(
  matrix: Int4Matrix,
  largest: number,
  into: { readonly values_in_out: Int8Array; readonly scale_out: Float32Array },
): void {
  const { nibbles_out_in, scales_out_block, out, in: width } = matrix
  const { values_in_out, scale_out } = into
  const blocks = blocksOfRow(width)
  const steps_out_block = stepsOfBlocks(scales_out_block, blocks, largest, scale_out)
  for (let tile = 0; tile < out; tile += TILE) {
    const end = Math.min(out, tile + TILE)
    for (let pair = 0; 2 * pair < width; pair++) {
      const block = (2 * pair) >> 5
      const low = 2 * pair * out
      const high = 2 * pair + 1 < width ? low + out : -1
      for (let o = tile, at = tile * blocks * BLOCK_BYTES + pair; o < end; o++, at += blocks * BLOCK_BYTES) {
        const byte = nibbles_out_in[at]!
        const steps = steps_out_block[o * blocks + block]!
        values_in_out[low + o] = ((steps * (byte & 15) + (HALF - ZERO * steps)) | 0) - BIAS
        if (high >= 0) values_in_out[high + o] = ((steps * (byte >> 4) + (HALF - ZERO * steps)) | 0) - BIAS
      }
    }
  }
}

/** Makes a sum positive before it is cut to a whole number, so that cutting rounds to the nearest. */
const BIAS = 256
const HALF = BIAS + 0.5

/** Each block's step in steps of its output's new scale, which is such that the largest possible weight is `largest`. */
function stepsOfBlocks(
  scales_out_block: Uint16Array,
  blocks: number,
  largest: number,
  scale_out: Float32Array,
): Float32Array {
  const steps_out_block = new Float32Array(scales_out_block.length)
  widenF16(scales_out_block, steps_out_block)
  for (let o = 0; o < scale_out.length; o++) {
    let most = 0
    for (let b = o * blocks; b < (o + 1) * blocks; b++) most = Math.max(most, Math.abs(steps_out_block[b]!))
    scale_out[o] = (most * ZERO) / largest
    const inverse = most > 0 ? 1 / scale_out[o]! : 0
    for (let b = o * blocks; b < (o + 1) * blocks; b++) steps_out_block[b] = steps_out_block[b]! * inverse
  }
  return steps_out_block
}
