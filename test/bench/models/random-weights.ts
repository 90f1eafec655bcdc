import { seededRandom } from '../../support/random.ts'
import type { TensorSpec } from './tensors.ts'

/** Power of two; a row begins at any of these places, so two rows of a tensor are equal only if it has more rows. */
const BLOCK = 1 << 20

/**
 * Seeded values that bfloat16 holds exactly, so that every format that is not quantised says the same. One block of
 * normally distributed numbers is made per width; each row of a tensor is a window of it at a place of its own. Copying
 * is as fast as memory, and for the arithmetic windows are as good as fresh numbers.
 */
export class RandomWeights {
  readonly #seed: number
  /** Standard normal numbers, as float32. */
  readonly #normal: Float32Array
  /** By width: bf16 bits of the block at that width's scale, its beginning repeated at its end. */
  readonly #blocks = new Map<string, Uint16Array>()

  constructor(seed: number) {
    this.#seed = seed
    this.#normal = standardNormal(seed)
  }

  /** Writes the bf16 bits of one row of `spec` into `out`, which has as many elements as the row. */
  row(spec: TensorSpec, row: number, out: Uint16Array): void {
    const block = this.#block(spec)
    // An odd step visits every place of a block whose size is a power of two before it comes back.
    const step = mixed(this.#seed, 2 * spec.index) | 1
    const start = (Math.imul(row, step) + mixed(this.#seed, 2 * spec.index + 1)) & (BLOCK - 1)
    out.set(block.subarray(start, start + spec.columns))
  }

  /** Matrices have a standard deviation of 1 / sqrt(width), so that products neither grow nor fade; gains are about 1. */
  #block({ kind, columns }: TensorSpec): Uint16Array {
    const name = `${kind} ${columns}`
    const known = this.#blocks.get(name)
    if (known !== undefined) return known
    const [middle, width] = kind === 'norm' ? [1, 0.1] : [0, 1 / Math.sqrt(columns)]
    const singles = new Float32Array(BLOCK + columns)
    for (let i = 0; i < singles.length; i++) singles[i] = middle + width * this.#normal[i & (BLOCK - 1)]!
    const bits = toBf16(singles)
    this.#blocks.set(name, bits)
    return bits
  }
}

/** The nearest bf16, ties to even; `values` must be finite. */
export function toBf16(values: Float32Array): Uint16Array {
  const words = new Uint32Array(values.buffer, values.byteOffset, values.length)
  const bits = new Uint16Array(values.length)
  for (let i = 0; i < bits.length; i++) bits[i] = (words[i]! + 0x7fff + ((words[i]! >>> 16) & 1)) >>> 16
  return bits
}

/** Box and Muller's transform. */
function standardNormal(seed: number): Float32Array {
  const random = seededRandom(seed)
  const normal = new Float32Array(BLOCK)
  for (let i = 0; i < BLOCK; i += 2) {
    const radius = Math.sqrt(-2 * Math.log(1 - random()))
    const angle = 2 * Math.PI * random()
    normal[i] = radius * Math.cos(angle)
    normal[i + 1] = radius * Math.sin(angle)
  }
  return normal
}

/** A 32-bit mix of two numbers (the finaliser of MurmurHash3). */
function mixed(seed: number, value: number): number {
  let h = Math.imul(seed ^ 0x9e3779b9, 0x85ebca6b) ^ Math.imul(value + 1, 0xc2b2ae35)
  h = Math.imul(h ^ (h >>> 16), 0x85ebca6b)
  h = Math.imul(h ^ (h >>> 13), 0xc2b2ae35)
  return (h ^ (h >>> 16)) >>> 0
}
