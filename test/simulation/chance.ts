import { seededRandom } from '../support/random.ts'

/** Chance with a seed. Each part of a simulation has a stream of its own, so that one more draw here shifts nothing there. */
export class Chance {
  readonly #random: () => number

  constructor(seed: number, stream: string) {
    let hash = seed >>> 0
    for (const letter of stream) hash = Math.imul(hash ^ letter.charCodeAt(0), 0x01000193)
    const random = seededRandom(Math.imul(hash ^ (hash >>> 15), 0x2c1b3c6d) ^ seed)
    random()
    this.#random = random
  }

  /** Uniform in [0, 1). */
  readonly next = (): number => this.#random()

  hits(odds: number): boolean {
    return this.#random() < odds
  }

  between(low: number, high: number): number {
    return low + this.#random() * (high - low)
  }

  /** As likely between 1 and 10 as between 10 and 100. */
  spread(low: number, high: number): number {
    return low * (high / low) ** this.#random()
  }

  /** Of `[low, high]`. */
  whole(low: number, high: number): number {
    return low + Math.floor(this.#random() * (high - low + 1))
  }

  pick<T>(of: readonly T[]): T {
    return of[Math.floor(this.#random() * of.length)]!
  }
}
