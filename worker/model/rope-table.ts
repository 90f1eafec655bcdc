import type { ModelShape, RopeShape } from '../../shared/model-shape.ts'

type Floats = Float32Array<ArrayBuffer>
const f32 = Math.fround

/**
 * The angle per position of each of `dim / 2` rotated pairs (RoFormer, arXiv 2104.09864), rounded to float32 after every
 * step as torch does: in double precision the difference to the reference grows with the position.
 *
 * @param sequence tokens of the whole sequence, which some scalings depend on
 */
export function inverseFrequencies(rope: RopeShape, dim: number, sequence = 0): Float32Array {
  switch (rope.kind) {
    case 'default':
      return powers(rope.theta, dim)
    case 'linear':
      return powers(rope.theta, dim).map((f) => f / f32(rope.factor))
    case 'llama3':
      return powers(rope.theta, dim).map((f) => llama3(f, rope))
    case 'dynamic':
      return powers(dynamicTheta(rope, dim, sequence), dim)
    case 'yarn':
      return yarn(rope, dim)
    case 'longrope':
      return longrope(rope, dim, sequence)
  }
}

/** theta ^ (2 i / dim) of each pair i. */
const wavelengths = (theta: number, dim: number): Float32Array =>
  Float32Array.from({ length: dim / 2 }, (_, i) => f32(theta) ** f32((2 * i) / dim))

const powers = (theta: number, dim: number): Float32Array => wavelengths(theta, dim).map((wave) => 1 / wave)

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

function dynamicTheta(rope: RopeShape & { kind: 'dynamic' }, dim: number, sequence: number): number {
  const { theta, factor, originalContextLength: context } = rope
  const longer = Math.max(sequence, context) / context
  return theta * (factor * longer - (factor - 1)) ** (dim / (dim - 2))
}

/** Pairs that turn often in the trained length are kept, those that turn less than once are stretched, a ramp between. */
function yarn(rope: RopeShape & { kind: 'yarn' }, dim: number): Float32Array {
  const { theta, factor, betaFast, betaSlow, truncate, originalContextLength: context } = rope
  const pairThatTurns = (times: number): number =>
    (dim * Math.log(context / (times * 2 * Math.PI))) / (2 * Math.log(theta))
  const [fast, slow] = [pairThatTurns(betaFast), pairThatTurns(betaSlow)]
  const low = Math.max(0, truncate ? Math.floor(fast) : fast)
  const high = Math.min(dim - 1, truncate ? Math.ceil(slow) : slow)
  const width = high === low ? 0.001 : high - low
  return wavelengths(theta, dim).map((wave, i) => {
    const stretched = f32(Math.min(1, Math.max(0, f32(f32(i - f32(low)) / f32(width)))))
    const kept = f32(1 - stretched)
    const [own, interpolated] = [f32(1 / wave), f32(1 / f32(f32(factor) * wave))]
    return f32(interpolated * f32(1 - kept)) + f32(own * kept)
  })
}

function longrope(rope: RopeShape & { kind: 'longrope' }, dim: number, sequence: number): Float32Array {
  const factors = sequence > rope.originalContextLength ? rope.longFactors : rope.shortFactors
  return wavelengths(rope.theta, dim).map((wave, i) => 1 / f32(f32(factors[i]!) * wave))
}

/** cos and sin of consecutive positions, `[positions][rotaryDim / 2]`. */
export interface RopeRows {
  readonly cos: Floats
  readonly sin: Floats
}

/** The rotation of every layer of a model. */
export class RopeTables {
  readonly #shape: ModelShape
  /** Layers of one name share a table. */
  readonly #names: readonly string[]
  readonly #tables = new Map<string, RopeTable>()

  constructor(shape: ModelShape) {
    this.#shape = shape
    this.#names = shape.layerShapes.map(({ rope }) => JSON.stringify(rope))
  }

  /**
   * For positions `[start, start + count)` of a sequence of `sequence` tokens. A layer without positions gets a rotation by
   * nothing. Positions beyond the context length are rotated too, as in transformers: who may go there is not decided here.
   */
  rows(layer: number, start: number, count: number, sequence: number): RopeRows {
    const { rotaryDim, layerShapes } = this.#shape
    const rope = layerShapes[layer]?.rope
    if (rope === undefined) return still(count, rotaryDim / 2)
    if (rope.kind === 'dynamic' && sequence > rope.originalContextLength) {
      // a single token is a step of decoding, which has a theta of its own
      if (count === 1) return rotation(inverseFrequencies(rope, rotaryDim, sequence), 1, start, 1)
      return this.#table(`${this.#names[layer]} beyond`, rope, sequence).rows(start, count)
    }
    const long = rope.kind === 'longrope' && sequence > rope.originalContextLength
    return this.#table(`${this.#names[layer]} ${long ? 'long' : ''}`, rope, long ? sequence : 0).rows(start, count)
  }

  /** Several runs at once may be of several lengths, so a dynamic table is for one of them only. */
  #table(name: string, rope: RopeShape, sequence: number): RopeTable {
    const found = this.#tables.get(name)
    if (found !== undefined && (rope.kind !== 'dynamic' || found.sequence === sequence)) return found
    const table = new RopeTable(rope, this.#shape, sequence)
    this.#tables.set(name, table)
    return table
  }
}

const still = (count: number, pairs: number): RopeRows => ({
  cos: new Float32Array(count * pairs).fill(1),
  sin: new Float32Array(count * pairs),
})

/** cos and sin of positions `[start, start + count)`, times `factor`. */
function rotation(frequencies: Float32Array, factor: number, start: number, count: number): RopeRows {
  const pairs = frequencies.length
  const [cos, sin] = [new Float32Array(count * pairs), new Float32Array(count * pairs)]
  for (let row = 0; row < count; row++)
    for (let pair = 0; pair < pairs; pair++) {
      const angle = f32((start + row) * frequencies[pair]!)
      cos[row * pairs + pair] = f32(Math.cos(angle)) * factor
      sin[row * pairs + pair] = f32(Math.sin(angle)) * factor
    }
  return { cos, sin }
}

/** cos and sin of every position in the context length, computed as far as they are needed: the table grows by doubling. */
class RopeTable {
  readonly sequence: number
  readonly #frequencies: Float32Array
  readonly #factor: number
  readonly #contextLength: number
  #cos_pos_pair: Floats = new Float32Array(0)
  #sin_pos_pair: Floats = new Float32Array(0)
  #positions = 0

  constructor(rope: RopeShape, { rotaryDim, contextLength }: ModelShape, sequence: number) {
    this.sequence = sequence
    this.#frequencies = inverseFrequencies(rope, rotaryDim, sequence)
    this.#factor = 'attentionFactor' in rope ? f32(rope.attentionFactor) : 1
    this.#contextLength = contextLength
  }

  rows(start: number, count: number): RopeRows {
    const end = start + count
    if (end > this.#contextLength) return rotation(this.#frequencies, this.#factor, start, count)
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
    const added = rotation(this.#frequencies, this.#factor, this.#positions, positions - this.#positions)
    cos.set(added.cos, this.#cos_pos_pair.length)
    sin.set(added.sin, this.#sin_pos_pair.length)
    this.#cos_pos_pair = cos
    this.#sin_pos_pair = sin
    this.#positions = positions
  }
}
