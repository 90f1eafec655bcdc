import type { ModelShape } from '../../../shared/model-shape.ts'
import type { Dim, GraphBuilder, Value } from './graph-builder.ts'
import { matmulTransposed } from './linear/f32.ts'
import type { Linear } from './linear/linear.ts'
import { activated, biased, normed, scaled } from './parts.ts'

/** Lost in the sum of any row that has seen a key; an empty row has 0 and must give 0, not NaN. */
const SMALLEST_SUM = 1e-30

/** Normalised attention, output projection, residual, MLP, residual, with the norms where the model has them. */
export function mixGraph(shape: ModelShape, linear: Linear, g: GraphBuilder): Uint8Array {
  const { hidden } = shape
  const attention = normalised(shape, g)
  g.output('y', mixed(shape, linear, g, { attention, x: g.input('x', [1, 'S', hidden]) }), [1, 'S', hidden])
  return g.buildWithNothing('mix')
}

/** What a layer's second half goes on with. */
interface Gathered {
  /** Normalised, [1, S, heads * headDim]. */
  readonly attention: Value
  /** The residual stream, [1, S, hidden]. */
  readonly x: Value
}

/** The residual stream after the layer. */
export function mixed(shape: ModelShape, linear: Linear, g: GraphBuilder, gathered: Gathered): Value {
  const { hidden, ffn, norms, residualScale, biases } = shape
  const { residual, input } = joinAttention(shape, linear, g, gathered)
  const mlp = gatedMlp(shape, linear, g, input, ffn, biases.mlp)
  const out = norms === 'pre' ? mlp : normed(g, mlp, 'mlp_out', hidden, shape)
  return g.op('Add', [residual, scaled(g, out, residualScale)])
}

/** What attention has gathered, by its sums of weights, [1, S, heads * headDim]. */
export function normalised({ heads, headDim }: ModelShape, g: GraphBuilder, rows: Dim = 'S'): Value {
  const [o, l] = [g.input('o', [heads, rows, headDim]), g.input('l', [heads, rows, 1])]
  const of = g.op('Div', [o, g.op('Add', [l, g.float(SMALLEST_SUM)])])
  return g.op('Reshape', [g.op('Transpose', [of], { perm: { ints: [1, 0, 2] } }), g.ints(1, -1, heads * headDim)])
}

/** The same up to the experts: the residual stream, what experts read of it, and how the router rates them. */
export function joinGraph(shape: ModelShape, linear: Linear, g: GraphBuilder): Uint8Array {
  const { hidden, experts } = shape
  const gathered = { attention: normalised(shape, g), x: g.input('x', [1, 'S', hidden]) }
  const { residual, input } = joinAttention(shape, linear, g, gathered)
  const router = g.input('router_weight', [experts!.count, hidden])
  g.output('residual', residual, [1, 'S', hidden])
  g.output('input', input, [1, 'S', hidden])
  g.output('ratings', matmulTransposed(g, input, router), [1, 'S', experts!.count])
  return g.buildWithNothing('join')
}

/** One expert of the rows it is given. */
export function expertGraph(shape: ModelShape, linear: Linear, g: GraphBuilder): Uint8Array {
  const { hidden, experts } = shape
  const x = g.input('x', [1, 'S', hidden])
  g.output('y', gatedMlp(shape, linear, g, x, experts!.ffn, false), [1, 'S', hidden])
  return g.buildWithNothing('expert')
}

function joinAttention(
  shape: ModelShape,
  { multiplicand }: Linear,
  g: GraphBuilder,
  { attention, x }: Gathered,
): { residual: Value; input: Value } {
  const { hidden, heads, headDim, norms, biases, residualScale } = shape
  const product = multiplicand(g, attention, heads * headDim, true)('o_weight', hidden)
  const projected = biased(g, product, biases.o, 'o', hidden)
  const out = norms === 'pre' ? projected : normed(g, projected, 'attention_out', hidden, shape)
  const added = scaled(g, out, residualScale)
  if (norms === 'post') {
    const residual = g.op('Add', [added, x])
    return { residual, input: residual }
  }
  // x first: its dimensions are known, the sum takes them over, and what follows can be computed in place
  const residual = g.op('Add', [x, added])
  return { residual, input: normed(g, residual, 'mlp', hidden, shape) }
}

/** A gated MLP (arXiv 2002.05202). */
function gatedMlp(
  { hidden, activation }: ModelShape,
  { multiplicand }: Linear,
  g: GraphBuilder,
  x: Value,
  ffn: number,
  hasBias: boolean,
): Value {
  const times = multiplicand(g, x, hidden)
  const gate = activated(g, biased(g, times('gate_weight', ffn), hasBias, 'gate', ffn), activation)
  const gated = g.op('Mul', [gate, biased(g, times('up_weight', ffn), hasBias, 'up', ffn)])
  return biased(g, multiplicand(g, gated, ffn, true)('down_weight', hidden), hasBias, 'down', hidden)
}
