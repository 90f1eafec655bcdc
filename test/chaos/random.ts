import { randomInt, seededRandom } from '../support/random.ts'

/** One seed, a stream of draws for each purpose: a draw more of one does not shift the others. */
export class Draws {
  readonly #random: () => number

  constructor(seed: number, purpose: string) {
    this.#random = seededRandom([...purpose].reduce((hash, letter) => Math.imul(hash, 31) + letter.charCodeAt(0), seed))
  }

  /** Uniform in [0, 1). */
  fraction(): number {
    return this.#random()
  }

  below(count: number): number {
    return randomInt(this.#random, count)
  }

  oneOf<T>(items: readonly T[]): T {
    return items[this.below(items.length)]!
  }

  /** Between both, as often between 1 and 2 as between 10 and 20. */
  spread(least: number, most: number): number {
    return least * (most / least) ** this.#random()
  }
}
