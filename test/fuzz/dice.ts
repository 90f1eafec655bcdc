import { randomInt, seededRandom } from '../support/random.ts'

/** Choices that depend on a seed alone, so that an input can be made again from its place in a run. */
export class Dice {
  readonly #random: () => number

  constructor(seed: number) {
    this.#random = seededRandom(seed)
  }

  /** Of input `index` of a target in a run with this seed. Neighbours share nothing: multipliers as in MurmurHash3. */
  static of(seed: number, target: string, index: number): Dice {
    let hash = seed | 0
    for (const word of [...Buffer.from(target), index]) {
      hash = Math.imul(hash ^ word, 0x85ebca6b)
      hash = Math.imul(hash ^ (hash >>> 13), 0xc2b2ae35)
      hash ^= hash >>> 16
    }
    return new Dice(hash)
  }

  below(n: number): number {
    return randomInt(this.#random, n)
  }

  /** Mostly small, at times up to `n`. */
  few(n: number): number {
    return Math.floor(n * this.#random() ** 3)
  }

  chance(probability: number): boolean {
    return this.#random() < probability
  }

  oneOf<T>(choices: readonly T[]): T {
    return choices[this.below(choices.length)]!
  }

  bytes(length: number): Uint8Array {
    return Uint8Array.from({ length }, () => this.below(256))
  }
}
