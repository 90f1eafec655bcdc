import { HeadraceError } from '../../shared/errors.ts'
import type { ModelShape, RopeShape } from '../../shared/model-shape.ts'

const f32 = Math.fround

/**
 * The angles per position of each rotated pair (RoFormer, arXiv 2104.09864), rounded to float32 after every step as
 * torch does: in double precision the difference to the reference grows with the position.
 */
export function inverseFrequencies(rope: RopeShape, headDim: number): Float32Array {
  const theta = f32(rope.theta)
  const base = Float32Array.from({ length: headDim / 2 }, (_, i) => 1 / f32(theta ** f32((2 * i) / headDim)))
  switch (rope.kind) {
    case 'default':
      return base
    case 'linear':
      return base.map((f) => f / f32(rope.factor))
    case 'llama3':
      return base.map((f) => llama3(f, rope))
  }
}

/**
 * Llama 3.1's scaling: long waves are stretched, short ones kept, those between blended. The order of the roundings is
 * that of transformers' `_compute_llama3_parameters`; torch divides a scalar by a tensor as scalar * (1 / tensor).
 */
function llama3(f: number, rope: RopeShape & { kind: 'llama3' }): number {
  const { originalContextLength: context, lowFreqFactor: low, highFreqFactor: high } = rope
  const factor = f32(rope.factor)
  const wavelength = f32(f32(1 / f) * f32(2 * Math.PI))
  if (wavelength > f32(context / low)) return f / factor
  if (wavelength < f32(context / high)) return f
  const waves = f32(f32(1 / wavelength) * context)
  const smooth = f32(f32(waves - f32(low)) / f32(high - low))
  return f32(f32(f32(1 - smooth) * f) / factor) + f32(smooth * f)
}

/** cos and sin of every position, computed as far as they are needed: the table grows by doubling. */
export class RopeTable {
  readonly #frequencies: Float32Array
  readonly #contextLength: number
  #cos_pos_pair: Float32Array<ArrayBuffer>
  #sin_pos_pair: Float32Array<ArrayBuffer>
  #positions = 0

  constructor(shape: ModelShape) {
    this.#frequencies = inverseFrequencies(shape.rope, shape.headDim)
    this.#contextLength = shape.contextLength
    this.#cos_pos_pair = new Float32Array(0)
    this.#sin_pos_pair = new Float32Array(0)
  }

  /** Views of the rows `[start, start + count)`, each headDim / 2 long. */
  rows(start: number, count: number): { cos: Float32Array<ArrayBuffer>; sin: Float32Array<ArrayBuffer> } {
    const end = start + count
    if (end > this.#contextLength)
      throw new HeadraceError('context_length_exceeded', `position ${end - 1} is beyond the context length`)
    if (end > this.#positions) this.#grow(Math.min(this.#contextLength, Math.max(1024, 2 * this.#positions, end)))
    const pairs = this.#frequencies.length
    return {
      cos: this.#cos_pos_pair.subarray(start * pairs, end * pairs),
      sin: this.#sin_pos_pair.subarray(start * pairs, end * pairs),
    }
  }

  #grow(positions: number): void {
    const pairs = this.#frequencies.length
    const cos = new Float32Array(positions * pairs)
    const sin = new Float32Array(positions * pairs)
    cos.set(this.#cos_pos_pair)
    sin.set(this.#sin_pos_pair)
    for (let position = this.#positions; position < positions; position++) {
      for (let pair = 0; pair < pairs; pair++) {
        const angle = f32(position * this.#frequencies[pair]!)
        cos[position * pairs + pair] = Math.cos(angle)
        sin[position * pairs + pair] = Math.sin(angle)
      }
    }
    this.#cos_pos_pair = cos
    this.#sin_pos_pair = sin
    this.#positions = positions
  }
}
