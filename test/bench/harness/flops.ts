import type { ModelShape } from '../../../shared/model-shape.ts'

/** Floating-point operations that a prefill needs: a multiplication and an addition are two. Pure. */

/** The kinds of calls of an engine that compute: those of a prompt, and those of a token after it. */
export const PREFILL_CALLS = ['project', 'attend', 'mix', 'logits'] as const
export const DECODE_CALLS = ['step', 'logits'] as const
export const CALLS = [...new Set([...PREFILL_CALLS, ...DECODE_CALLS])]
export type Call = (typeof CALLS)[number]
export type PerCall = Readonly<Record<Call, number>>

/** How many (query, key) pairs causal attention has for queries at `[start, end)`. */
export const visiblePairs = (start: number, end: number): number => (end * (end + 1) - start * (start + 1)) / 2

/**
 * A prompt of `tokens` to its last logits. `lastRows` is of how many tokens the last layer is computed beyond K and V:
 * only the last one is needed, but a program computes at least a chunk. Masked scores do not count: they are waste.
 */
export function prefillFlops(shape: ModelShape, tokens: number, lastRows: number): PerCall {
  const { layers, hidden, heads, kvHeads, headDim, ffn, vocab } = shape
  const pairs = (layers - 1) * visiblePairs(0, tokens) + visiblePairs(tokens - lastRows, tokens)
  return {
    project: layers * tokens * 2 * hidden * (heads + 2 * kvHeads) * headDim,
    attend: pairs * 4 * heads * headDim,
    mix: ((layers - 1) * tokens + lastRows) * 2 * hidden * (heads * headDim + 3 * ffn),
    step: 0,
    logits: 2 * hidden * vocab,
  }
}

/** One more token after `context` others. */
export function decodeFlops(shape: ModelShape, context: number): PerCall {
  const { layers, hidden, heads, kvHeads, headDim, ffn, vocab } = shape
  const weights = hidden * (heads + 2 * kvHeads) * headDim + hidden * (heads * headDim + 3 * ffn)
  return {
    project: 0,
    attend: 0,
    mix: 0,
    step: layers * (2 * weights + (context + 1) * 4 * heads * headDim),
    logits: 2 * hidden * vocab,
  }
}

export const allCalls = (of: PerCall): number => CALLS.reduce((total, call) => total + of[call], 0)
