import type { ModelShape } from '../../../shared/model-shape.ts'
import type { Dim, GraphBuilder, Value } from './graph-builder.ts'
import { matmulTransposed } from './linear/f32.ts'
import type { LinearFormat } from './linear/linear.ts'
import { attendOneGraph } from './one-row.ts'
import { WIRE_GRAPHS } from './wire-graphs.ts'

export type WeightedKind = 'project' | 'mix' | 'logits'
/** `headRows` is the number of rows of the head, or of a piece of it. */
type WeightedGraph = (shape: ModelShape, linear: Linear, g: GraphBuilder, headRows: Dim) => Uint8Array

/** The graphs that have weights. S is the number of tokens of a chunk. */
export const GRAPHS: Readonly<Record<WeightedKind, WeightedGraph>> = {
  project: projectGraph,
  mix: mixGraph,
  logits: logitsGraph,
}

/** Those that have none; T is the number of keys. */
export const PLAIN_GRAPHS = {
  attend: (shape: ModelShape, g: GraphBuilder) => attendGraph(shape, g, false),
  attendMasked: (shape: ModelShape, g: GraphBuilder) => attendGraph(shape, g, true),
  attendOne: attendOneGraph,
  ...WIRE_GRAPHS,
} as const
export type PlainKind = keyof typeof PLAIN_GRAPHS

/** What a graph needs to know of how weights are kept. */
type Linear = Pick<LinearFormat<unknown>, 'multiplicand'>

/** The maximum of a row that has seen no key. Finite, because -inf - -inf is NaN. */
export const EMPTY_MAX = -1e30
/** Added to the score of a key a query may not see. Below EMPTY_MAX, so that its weight is 0 in an empty row too. */
export const HIDDEN_KEY = -2e30
/** A row that saw a key has l >= 1, the weight of its largest score; an empty row has 0 and must give 0, not NaN. */
const SMALLEST_SUM = 0.5

/** Norm, the three projections, rotation of q and k; K and V leave per head, straight into the cache. */
function projectGraph(
  { hidden, heads, kvHeads, headDim, normEpsilon }: ModelShape,
  { multiplicand }: Linear,
  g: GraphBuilder,
): Uint8Array {
  const x = g.input('x', [1, 'S', hidden])
  const gain = g.input('gain', [hidden])
  const cos = g.input('cos', ['S', headDim / 2])
  const sin = g.input('sin', ['S', headDim / 2])
  const first = g.ints(0) // the tables start at the chunk's own position
  const times = multiplicand(g, rmsNorm(g, x, gain, normEpsilon), hidden)
  const rotate = (value: Value, count: number) =>
    g.op('RotaryEmbedding@com.microsoft', [value, first, cos, sin], { num_heads: count, interleaved: 0 })

  const q_seq_heads_hdim = g.op('Reshape', [
    rotate(times('q_weight', heads * headDim), heads),
    g.ints(-1, heads, headDim),
  ])
  const q_heads_seq_hdim = g.op('Transpose', [q_seq_heads_hdim], { perm: { ints: [1, 0, 2] } })
  g.output('q', q_heads_seq_hdim, [heads, 'S', headDim])
  const perHead = (name: string, value: Value) => {
    g.ops(kvHeads, 'Split', [value], { axis: -1, num_outputs: kvHeads }).forEach((head, i) => {
      g.output(`${name}${i}`, head, [1, 'S', headDim])
    })
  }
  perHead('k', rotate(times('k_weight', kvHeads * headDim), kvHeads))
  perHead('v', times('v_weight', kvHeads * headDim))
  return g.build('project')
}

/**
 * One range of keys, folded into the carried state: o, l and m of online softmax (arXiv 1805.02867), as blockwise
 * attention does (arXiv 2305.19370). Every KV head is on its own, as its keys and values are a view of their own and its
 * scores fit the cache. The G query heads of its group are rows of the same product, so keys and values are never
 * repeated. `m_out` must not be the buffer of `m`: it is written before `m` is last read.
 */
function attendGraph(shape: ModelShape, g: GraphBuilder, masked: boolean): Uint8Array {
  const mask = masked ? g.input('mask', ['S', 'T']) : undefined
  for (let head = 0; head < shape.kvHeads; head++) attendHead(g, shape, head, mask)
  return g.build(masked ? 'attend_masked' : 'attend')
}

function attendHead(g: GraphBuilder, { heads, kvHeads, headDim }: ModelShape, head: number, mask?: Value): void {
  const group = heads / kvHeads
  const q = g.input(`q${head}`, [group, 'S', headDim])
  const k = g.input(`k${head}`, ['T', headDim])
  const v = g.input(`v${head}`, ['T', headDim])
  const o = g.input(`o${head}`, [group, 'S', headDim])
  const l = g.input(`l${head}`, [group, 'S', 1])
  const m = g.input(`m${head}`, [group, 'S', 1])
  const last = g.ints(-1)
  const all = matmulTransposed(g, q, k, 1 / Math.sqrt(headDim))
  const scores = mask === undefined ? all : g.op('Add', [all, mask])
  const mOut = g.op('Max', [m, g.op('ReduceMax', [scores, last], { keepdims: 1 })])
  const weights = g.op('Exp', [g.op('Sub', [scores, mOut])])
  const old = g.op('Exp', [g.op('Sub', [m, mOut])])
  const sum = g.op('ReduceSum', [weights, last], { keepdims: 1 })
  g.output(`l${head}_out`, g.op('Add', [g.op('Mul', [l, old]), sum]), [group, 'S', 1])
  g.output(`o${head}_out`, g.op('Add', [g.op('Mul', [o, old]), g.op('MatMul', [weights, v])]), [group, 'S', headDim])
  g.output(`m${head}_out`, mOut, [group, 'S', 1])
}

/** Normalised attention, output projection, residual, norm, SwiGLU MLP (arXiv 2002.05202), residual. */
function mixGraph(
  { hidden, heads, headDim, ffn, normEpsilon }: ModelShape,
  { multiplicand }: Linear,
  g: GraphBuilder,
): Uint8Array {
  const o = g.input('o', [heads, 'S', headDim])
  const l = g.input('l', [heads, 'S', 1])
  const x = g.input('x', [1, 'S', hidden])
  const gain = g.input('gain', [hidden])
  const normalised = g.op('Div', [o, g.op('Max', [l, g.float(SMALLEST_SUM)])])
  const attention_seq_heads_hdim = g.op('Transpose', [normalised], { perm: { ints: [1, 0, 2] } })
  const attention = g.op('Reshape', [attention_seq_heads_hdim, g.ints(1, -1, heads * headDim)])
  const projected = multiplicand(g, attention, heads * headDim)('o_weight', hidden)
  const [normed, , , residual] = g.ops(4, 'SkipSimplifiedLayerNormalization@com.microsoft', [projected, x, gain], {
    epsilon: { float: normEpsilon },
  }) as [Value, Value, Value, Value]
  const times = multiplicand(g, normed, hidden)
  const silu = g.op('QuickGelu@com.microsoft', [times('gate_weight', ffn)], { alpha: { float: 1 } })
  const gated = g.op('Mul', [silu, times('up_weight', ffn)])
  const y = g.op('Add', [residual, multiplicand(g, gated, ffn, true)('down_weight', hidden)])
  g.output('y', y, [1, 'S', hidden])
  return g.build('mix')
}

function logitsGraph(
  { hidden, normEpsilon }: ModelShape,
  { multiplicand }: Linear,
  g: GraphBuilder,
  headRows: Dim,
): Uint8Array {
  const x = g.input('x', [1, hidden])
  const gain = g.input('gain', [hidden])
  const times = multiplicand(g, rmsNorm(g, x, gain, normEpsilon), hidden, true)
  g.output('logits', times('head_weight', headRows), [1, headRows])
  return g.build('logits')
}

const rmsNorm = (g: GraphBuilder, x: Value, gain: Value, epsilon: number): Value =>
  g.op('SimplifiedLayerNormalization', [x, gain], { axis: -1, epsilon: { float: epsilon }, stash_type: 1 })
