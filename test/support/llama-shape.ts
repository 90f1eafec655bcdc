import type { ModelShape, RopeShape } from '../../shared/model-shape.ts'

type Sizes = 'layers' | 'hidden' | 'heads' | 'kvHeads' | 'headDim' | 'ffn' | 'vocab' | 'contextLength' | 'tiedHead'

/** The shape of a Llama model of these sizes. */
export const llamaShape = (
  sizes: Pick<ModelShape, Sizes>,
  rope: RopeShape = { kind: 'default', theta: 10_000 },
  normEpsilon = 1e-5,
): ModelShape => ({
  architecture: 'llama',
  ...sizes,
  normEpsilon,
  norms: 'pre',
  qkNorm: 'none',
  activation: 'silu',
  biases: { qkv: false, o: false, mlp: false },
  embeddingScale: 1,
  residualScale: 1,
  scoreScale: 1 / Math.sqrt(sizes.headDim),
  logitScale: 1,
  rotaryDim: sizes.headDim,
  layerShapes: Array.from({ length: sizes.layers }, () => ({ rope, experts: false })),
})
