import type { Draws } from './random.ts'

/** The prompts of a run of chaos, drawn from its seed. Pure. */

/** One request that is asked again and again: its answer is always the same. */
export interface Ask {
  readonly id: number
  readonly stream: boolean
  readonly body: {
    readonly prompt: readonly number[]
    readonly max_tokens: number
    readonly temperature: number
    readonly seed: number
    readonly logprobs: 0
    readonly headrace: { readonly strategy?: 'chain' | 'ring'; readonly ignore_eos: true }
  }
}

export interface AskLimits {
  readonly count: number
  readonly leastTokens: number
  readonly mostTokens: number
}

const STRATEGIES = ['chain', 'chain', 'ring', undefined] as const
const LEAST_ANSWER = 4
const MOST_ANSWER = 64

/** Pieces of a text in token ids, from anywhere in it: short ones as often as long ones, greedy and sampled, streamed and whole. */
export function drawAsks(draws: Draws, text: readonly number[], limits: AskLimits): Ask[] {
  return Array.from({ length: limits.count }, (_, id) => {
    const tokens = Math.round(draws.spread(limits.leastTokens, limits.mostTokens))
    const from = draws.below(text.length)
    const strategy = draws.oneOf(STRATEGIES)
    const body = {
      prompt: Array.from({ length: tokens }, (_unused, i) => text[(from + i) % text.length]!),
      max_tokens: Math.round(draws.spread(LEAST_ANSWER, MOST_ANSWER)),
      temperature: draws.oneOf([0, 0.8]),
      seed: draws.below(2 ** 31),
      logprobs: 0 as const,
      headrace: { ...(strategy && { strategy }), ignore_eos: true as const },
    }
    return { id, stream: draws.oneOf([true, false]), body }
  })
}
