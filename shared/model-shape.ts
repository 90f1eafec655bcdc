/**
 * A model's dimensions and what its layers compute, as read from `config.json`. Sizes are counts of float32 elements unless a
 * name says otherwise. All fields that change a number are here: two models of one shape differ in their weights alone.
 */
export interface ModelShape {
  /** `model_type` of `config.json`. */
  readonly architecture: string
  readonly layers: number
  readonly hidden: number
  readonly heads: number
  readonly kvHeads: number
  readonly headDim: number
  /** Width of the MLP of layers without experts. */
  readonly ffn: number
  readonly vocab: number
  readonly contextLength: number
  readonly tiedHead: boolean
  readonly normEpsilon: number
  readonly norms: Norms
  readonly qkNorm: QkNorm
  readonly activation: Activation
  readonly biases: Biases
  /** What embeddings are multiplied by. */
  readonly embeddingScale: number
  /** What attention and MLP are multiplied by before they join the residual stream. */
  readonly residualScale: number
  /** What products of queries and keys are multiplied by: 1 / sqrt(headDim) in most. */
  readonly scoreScale: number
  /** Scores become cap * tanh(score / cap), before any mask. */
  readonly scoreCap?: number
  /** What logits are multiplied by. */
  readonly logitScale: number
  /** Logits become cap * tanh(logit / cap). */
  readonly logitCap?: number
  readonly experts?: ExpertsShape
  /** How many of a head's elements are rotated, from the first: headDim in most. */
  readonly rotaryDim: number
  /** What may differ between layers, one entry a layer. */
  readonly layerShapes: readonly LayerShape[]
}

/**
 * Where a layer normalises: `pre`, the input of attention and of the MLP; `post`, the output of both; `sandwich`, input and
 * output of both.
 */
export type Norms = 'pre' | 'post' | 'sandwich'

/** Queries and keys are normalised before they are rotated: not at all, each head on its own, or all heads as one vector. */
export type QkNorm = 'none' | 'head' | 'full'

/** Of the MLP's gate. `gelu_tanh` is the approximation by tanh (arXiv 1606.08415). */
export type Activation = 'silu' | 'gelu' | 'gelu_tanh'

interface Biases {
  readonly qkv: boolean
  readonly o: boolean
  readonly mlp: boolean
}

/** A mixture of experts (arXiv 2401.04088): each token goes through the `perToken` experts that the router rates highest. */
export interface ExpertsShape {
  readonly count: number
  readonly perToken: number
  /** Width of one expert. */
  readonly ffn: number
  /** The weights of the chosen experts are made to sum to 1. */
  readonly renormalised: boolean
}

export interface LayerShape {
  /** Absent: this layer does not know positions. */
  readonly rope?: RopeShape
  /** A query sees itself and the `window - 1` keys before it. Absent: all keys before it. */
  readonly window?: number
  /** The MLP is a mixture of experts. */
  readonly experts: boolean
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
  /** theta grows with the sequence once that is longer than the model was trained for. */
  | {
      readonly kind: 'dynamic'
      readonly theta: number
      readonly factor: number
      readonly originalContextLength: number
    }
  /** YaRN (arXiv 2309.00071). `attentionFactor` multiplies cos and sin. */
  | {
      readonly kind: 'yarn'
      readonly theta: number
      readonly factor: number
      readonly attentionFactor: number
      readonly betaFast: number
      readonly betaSlow: number
      readonly truncate: boolean
      readonly originalContextLength: number
    }
  /** LongRoPE (arXiv 2402.13753): a divisor to each pair, other ones once the sequence is longer than the model was trained for. */
  | {
      readonly kind: 'longrope'
      readonly theta: number
      readonly attentionFactor: number
      readonly shortFactors: readonly number[]
      readonly longFactors: readonly number[]
      readonly originalContextLength: number
    }

/** float32 bytes of the K and V of one token in one layer. */
export const kvBytesPerTokenLayer = (shape: ModelShape): number => 2 * shape.kvHeads * shape.headDim * 4

/** How many numbers the matrices of one layer have learned. */
export function layerMatrixParameters(shape: ModelShape, layer: number, experts = shape.experts?.count ?? 0): number {
  const { hidden, heads, kvHeads, headDim, ffn } = shape
  const attention = 2 * hidden * headDim * (heads + kvHeads)
  if (!shape.layerShapes[layer]?.experts || shape.experts === undefined) return attention + 3 * hidden * ffn
  return attention + hidden * shape.experts.count + experts * 3 * hidden * shape.experts.ffn
}

/** How many numbers the model has learned, but for biases and norms inside attention. */
export function parameterCount(shape: ModelShape): number {
  const { layers, hidden, vocab, tiedHead, norms } = shape
  let sum = hidden + vocab * hidden * (tiedHead ? 1 : 2)
  for (let layer = 0; layer < layers; layer++)
    sum += layerMatrixParameters(shape, layer) + (norms === 'sandwich' ? 4 : 2) * hidden
  return sum
}
