/** A model's dimensions, as read from `config.json`. Sizes are counts of float32 elements unless a name says otherwise. */
export interface ModelShape {
  readonly architecture: 'llama'
  readonly layers: number
  readonly hidden: number
  readonly heads: number
  readonly kvHeads: number
  readonly headDim: number
  readonly ffn: number
  readonly vocab: number
  readonly contextLength: number
  readonly normEpsilon: number
  readonly tiedHead: boolean
  readonly rope: RopeShape
}

/** Rotary position embedding (RoFormer, arXiv 2104.09864) and its length scalings. */
export type RopeShape =
  | { readonly kind: 'default'; readonly theta: number }
  | { readonly kind: 'linear'; readonly theta: number; readonly factor: number }
  | {
      readonly kind: 'llama3'
      readonly theta: number
      readonly factor: number
      readonly lowFreqFactor: number
      readonly highFreqFactor: number
      readonly originalContextLength: number
    }

/** float32 bytes of the K and V of one token in one layer. */
export const kvBytesPerTokenLayer = (shape: ModelShape): number => 2 * shape.kvHeads * shape.headDim * 4

/** How many numbers the model has learned. */
export function parameterCount({ layers, hidden, heads, kvHeads, headDim, ffn, vocab, tiedHead }: ModelShape): number {
  const attention = 2 * hidden * headDim * (heads + kvHeads)
  const layer = attention + 3 * hidden * ffn + 2 * hidden
  return layers * layer + hidden + vocab * hidden * (tiedHead ? 1 : 2)
}
