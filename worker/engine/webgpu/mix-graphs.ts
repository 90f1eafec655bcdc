import type { ModelShape } from '../../../shared/model-shape.ts'
import type { GraphBuilder, Value } from '../onnx/graph-builder.ts'
import { activated, biased, normed, scaled } from '../onnx/parts.ts'
import { type DeviceModel, product } from './device-model.ts'

/** Less than any row's sum that has seen a key; an empty row has 0 and must give 0, not NaN. */
const SMALLEST_SUM = 1e-30

/** Normalised attention, output projection, residual, MLP, residual, with the norms where the model has them. */
export function mixGraph(model: DeviceModel, g: GraphBuilder): Uint8Array {
  const { hidden, ffn, norms, residualScale, biases } = model.shape
  const { residual, input } = joinAttention(model, g)
  const mlp = gatedMlp(model, g, input, ffn, biases.mlp)
  const out = norms === 'pre' ? mlp : normed(g, mlp, 'mlp_out', hidden, model.shape)
  g.output('y', g.op('Add', [residual, scaled(g, out, residualScale)]), [1, 'S', hidden])
  return g.build('mix')
}

/** The same up to the experts: the residual stream, what experts read of it, and how the router rates them. */
export function joinGraph(model: DeviceModel, g: GraphBuilder): Uint8Array {
  const { hidden, experts } = model.shape
  const { residual, input } = joinAttention(model, g)
  const rows = g.op('Reshape', [input, g.ints(-1, hidden)])
  g.output('residual', residual, [1, 'S', hidden])
  g.output('input', rows, ['S', hidden])
  g.output('ratings', g.op('MatMul', [rows, g.input('router_weight', [hidden, experts!.count])]), ['S', experts!.count])
  return g.build('join')
}

/**
 * One expert of the rows that are its own, added to the residual stream. `places` [S, N] has each row's weight where the
 * row came from, so that a product puts it back: there is no kernel that scatters at speed.
 */
export function expertGraph(model: DeviceModel, g: GraphBuilder): Uint8Array {
  const { hidden, experts } = model.shape
  const rows = g.op('Gather', [g.input('input', ['S', hidden]), g.input('rows', ['N'], 'int64')], { axis: 0 })
  const mlp = gatedMlp(model, g, rows, experts!.ffn, false)
  const placed = g.op('MatMul', [g.input('places', ['S', 'N']), mlp])
  g.output('y', g.op('Add', [g.input('residual', [1, 'S', hidden]), placed]), [1, 'S', hidden])
  return g.build('expert')
}

function joinAttention({ shape, element }: DeviceModel, g: GraphBuilder): { residual: Value; input: Value } {
  const { hidden, norms, biases, residualScale } = shape
  const x = g.input('x', [1, 'S', hidden])
  const attention = attentionRows(shape, g)
  const times = product(g, element, attention, shape.heads * shape.headDim)
  const projected = biased(g, times('o_weight', hidden), biases.o, 'o', hidden)
  const out = norms === 'pre' ? projected : normed(g, projected, 'attention_out', hidden, shape)
  const residual = g.op('Add', [scaled(g, out, residualScale), x])
  return { residual, input: norms === 'post' ? residual : normed(g, residual, 'mlp', hidden, shape) }
}

/** Normalised, [1, S, heads * headDim]. */
function attentionRows({ heads, kvHeads, headDim }: ModelShape, g: GraphBuilder): Value {
  const o = g.input('o', [kvHeads, 'R', headDim])
  const l = g.input('l', [kvHeads, 'R', 1])
  const normalised = g.op('Div', [o, g.op('Max', [l, g.float(SMALLEST_SUM)])])
  const o_heads_seq_hdim = g.op('Reshape', [normalised, g.ints(heads, -1, headDim)])
  const o_seq_heads_hdim = g.op('Transpose', [o_heads_seq_hdim], { perm: { ints: [1, 0, 2] } })
  return g.op('Reshape', [o_seq_heads_hdim, g.ints(1, -1, heads * headDim)])
}

/** A gated MLP (arXiv 2002.05202). */
function gatedMlp({ shape, element }: DeviceModel, g: GraphBuilder, x: Value, ffn: number, hasBias: boolean): Value {
  const times = product(g, element, x, shape.hidden)
  const gate = activated(g, biased(g, times('gate_weight', ffn), hasBias, 'gate', ffn), shape.activation)
  const gated = g.op('Mul', [gate, biased(g, times('up_weight', ffn), hasBias, 'up', ffn)])
  return biased(g, product(g, element, gated, ffn)('down_weight', shape.hidden), hasBias, 'down', shape.hidden)
}
