/**
 * What arithmetic costs. A layer takes a worker o + a n + b n (P + n/2) seconds for n tokens after P: launching, the
 * linear part, and the causal triangle of attention (P + n/2 is how many keys an average query of the span sees); and c P
 * to take in what others made.
 * Every worker is calibrated on its own: a/b differs between engines, and kernels do not follow FLOP counts.
 */
import { layerMatrixParameters, type ModelShape } from '../../shared/model-shape.ts'
import type { Span } from '../../shared/plan.ts'
import { spanTokens } from '../../shared/plan.ts'
import type { Cost } from '../../shared/protocol/control.ts'

/** Seconds of one layer for one span. */
export function spanSeconds({ o, a, b }: Cost, { start, end }: Span): number {
  const tokens = end - start
  return o + tokens * (a + b * (start + tokens / 2))
}

/** Of a worker that takes so many times as long for everything. */
export const slowedCost = (cost: Cost, by: number): Cost => eachOf(cost, (_, value) => value * by)

/** The same coefficients, each changed. */
export const eachOf = (cost: Cost, change: (name: keyof Cost, value: number) => number): Cost => {
  const entries = Object.entries(cost) as [keyof Cost, number][]
  return Object.fromEntries(entries.map(([name, value]) => [name, change(name, value)])) as unknown as Cost
}

/** What a token's products with weights take of a layer: all of `a` that is not attention's. */
export const linearSeconds = ({ a, e = 0 }: Cost): number => Math.max(0, a - e)

/** Seconds of one layer for all spans of a worker. Each span is launched on its own, so each costs one overhead. */
export const layerSeconds = (cost: Cost, spans: readonly Span[]): number =>
  spans.reduce((sum, span) => sum + spanSeconds(cost, span), 0)

/** Seconds until the K and V of one layer are projected, before any attention. */
export const projectSeconds = (cost: Cost, spans: readonly Span[], shape: ModelShape): number =>
  spans.length * cost.o + spanTokens(spans) * linearSeconds(cost) * projectedShare(shape)

/**
 * Seconds of a whole prefill. Of the last layer only K and V are needed, since nothing but the prompt's last token goes
 * on from there, and that one is the decode node's.
 */
export const prefillSeconds = (cost: Cost, spans: readonly Span[], shape: ModelShape): number =>
  (shape.layers - 1) * layerSeconds(cost, spans) + projectSeconds(cost, spans, shape)

/** Seconds of one layer to take in the K and V of so many tokens of others. */
export const takeInSeconds = ({ c = 0 }: Cost, others: number): number => c * others

/** A speed that people can compare: tokens per second of a prompt of 512 tokens on this worker alone; 0 if it has no cost. */
export function tokensPerSecond(cost: Cost, layers: number): number {
  const seconds = layers * spanSeconds(cost, REFERENCE)
  return seconds > 0 ? REFERENCE.end / seconds : 0
}

const REFERENCE: Span = { start: 0, end: 512 }

/** Seconds of attention between a worker's own tokens and those that others computed. */
export const prefixAttentionSeconds = ({ b }: Cost, spans: readonly Span[]): number =>
  b * (spans.reduce((sum, { start, end }) => sum + ((end - start) * (start + end)) / 2, 0) - spanTokens(spans) ** 2 / 2)

/** Seconds of one layer after its attention: output projection and MLP. */
export const mixSeconds = (cost: Cost, tokens: number, shape: ModelShape): number =>
  tokens * linearSeconds(cost) * (1 - projectedShare(shape))

/** Seconds of one token's logits: the head is a matrix like those of the layers. */
export const headSeconds = (cost: Cost, shape: ModelShape): number =>
  (linearSeconds(cost) * shape.vocab) / linearWidth(shape)

/** How much of a layer's linear arithmetic is the q, k and v projection. The hidden size cancels out. */
const projectedShare = (shape: ModelShape): number =>
  ((shape.heads + 2 * shape.kvHeads) * shape.headDim) / linearWidth(shape)

/** Weights that a token meets in a layer, for each number of a hidden state; of a mixture, the experts that it is sent to. */
const linearWidth = (shape: ModelShape): number =>
  layerMatrixParameters(shape, shape.layers - 1, shape.experts?.perToken) / shape.hidden
