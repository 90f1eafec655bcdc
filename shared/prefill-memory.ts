import { kvBytesPerTokenLayer, type ModelShape } from './model-shape.ts'
import { type Span, type Strategy, spanTokens } from './plan.ts'

/** Layers of others' KV that a worker holds at most: as many as it grants. */
export const PREFIX_LAYERS = 3

/** What a token of a chunk takes while its layer is computed, bytes: residual stream, queries, running attention state. */
export const stateBytesPerToken = ({ hidden, heads, headDim }: ModelShape): number =>
  (2 * hidden + 2 * heads * headDim + 2 * heads) * 4

/**
 * What memory a worker's part of a prefill takes, bytes: its `own` tokens, and up to three layers of the `others` whose KV
 * it meets.
 */
export function prefillBytes(shape: ModelShape, { own, others }: { own: number; others: number }): number {
  const kvBytes = kvBytesPerTokenLayer(shape)
  return own * (stateBytesPerToken(shape) + kvBytes) + others * PREFIX_LAYERS * kvBytes
}

/** Tokens of others that a worker meets: in a ring all there are, in a chain those before its own. */
export const othersOf = (strategy: Strategy, spans: readonly Span[], prefillTokens: number): number =>
  strategy === 'ring' ? prefillTokens - spanTokens(spans) : (spans[0]?.start ?? 0)
