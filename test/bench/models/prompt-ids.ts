import { randomInt, seededRandom } from '../../support/random.ts'
import { END_TOKEN } from './tokenizer.ts'

/** `count` seeded token ids of a preset's vocabulary, none of which is special. A longer prompt begins with a shorter one. */
export function promptIds(vocab: number, count: number): number[] {
  const random = seededRandom(7)
  return Array.from({ length: count }, () => END_TOKEN + 1 + randomInt(random, vocab - END_TOKEN - 1))
}
