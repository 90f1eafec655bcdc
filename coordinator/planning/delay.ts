/**
 * What a plan costs those who wait behind it. A prompt that takes a part of the cluster for so many seconds delays each of
 * them by that part of the seconds, so of all plans the one is chosen that adds least to the sum of everyone's time to first
 * token: seconds x (1 + behind x part). With nobody behind that is the fastest. With many it is one that leaves workers to
 * others, as splitting over many always loses something: eight prompts are sooner done by four pairs than by eight of eight.
 */
import { spanSeconds } from './cost.ts'
import type { DecodeFacts, PrefillFacts } from './facts.ts'

/** Of all that the prefill workers can do, what each of them is, and what the decode node is beside them. */
export interface Parts {
  readonly workers: readonly number[]
  readonly tail: number
}

/**
 * A worker that holds runs gives a new one as much less of itself; but what all of them hold is waited for whatever the plan,
 * and tells nothing of which is better.
 */
export function partsOf(workers: readonly PrefillFacts[], decode: DecodeFacts, promptTokens: number): Parts {
  const whole = { start: 0, end: promptTokens }
  const speedOf = ({ cost }: Pick<DecodeFacts, 'cost'>): number =>
    cost === undefined ? 0 : 1 / spanSeconds(cost, whole)
  const least = Math.min(...workers.map(({ runs }) => runs))
  const all = workers.reduce((sum, worker) => sum + ((1 + worker.runs) / (1 + least)) * speedOf(worker), 0)
  // Costs of nothing are not told apart.
  const partOf = (of: Pick<DecodeFacts, 'cost'>): number =>
    Number.isFinite(all) ? speedOf(of) / all : 1 / workers.length
  return { workers: workers.map(partOf), tail: workers.length === 0 ? 1 : partOf(decode) }
}

/** @param behind prompts that wait, each of which is delayed */
export const withDelay = (seconds: number, behind: number, { members, tail }: Taken, parts: Parts): number =>
  seconds * (1 + behind * members.reduce((sum, member) => sum + parts.workers[member]!, tail ? parts.tail : 0))

/** Who computes; `tail`: the decode node, too. */
interface Taken {
  readonly members: readonly number[]
  readonly tail: boolean
}
