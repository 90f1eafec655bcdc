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
  attend: (shape: ModelShape, g: GraphBuilder) => attendGraph(shape, g, { shifted: false, masked: false }),
  attendMasked: (shape: ModelShape, g: GraphBuilder) => attendGraph(shape, g, { shifted: false, masked: true }),
  attendShifted: (shape: ModelShape, g: GraphBuilder) => attendGraph(shape, g, { shifted: true, masked: false }),
  attendShiftedMasked: (shape: ModelShape, g: GraphBuilder) => attendGraph(shape, g, { shifted: true, masked: true }),
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
/** Less than any row's sum that has seen a key; an empty row has 0 and must give 0, not NaN. */
const SMALLEST_SUM = 1e-30

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
 * One range of keys, folded into the carried state of softmax (arXiv 1805.02867) as blockwise attention does (arXiv
 * 2305.19370). Every KV head is on its own, as its keys and values are a view of their own and its scores fit the cache.
 * The G query heads of its group are rows of the same product, so keys and values are never repeated.
 */
function attendGraph(shape: ModelShape, g: GraphBuilder, { shifted, masked }: AttendKind): Uint8Array {
  const mask = masked ? g.input('mask', ['S', 'T']) : undefined
  for (let head = 0; head < shape.kvHeads; head++) {
    const io = attendHead(g, shape, head, mask)
    if (shifted) foldShifted(g, io)
    else foldUnshifted(g, io)
  }
  return g.build(`attend${shifted ? '_shifted' : ''}${masked ? '_masked' : ''}`)
}

interface AttendKind {
  /** The state has a maximum for each row, which is taken off its scores. */
  readonly shifted: boolean
  readonly masked: boolean
}

function attendHead(g: GraphBuilder, { heads, kvHeads, headDim }: ModelShape, head: number, mask?: Value) {
  const group = heads / kvHeads
  const q = g.input(`q${head}`, [group, 'S', headDim])
  const k = g.input(`k${head}`, ['T', headDim])
  const all = matmulTransposed(g, q, k, 1 / Math.sqrt(headDim))
  return {
    scores: mask === undefined ? all : g.op('Add', [all, mask]),
    v: g.input(`v${head}`, ['T', headDim]),
    old: (name: string, width = 1) => g.input(`${name}${head}`, [group, 'S', width]),
    put: (name: string, value: Value, width = 1) => g.output(`${name}${head}_out`, value, [group, 'S', width]),
    headDim,
  }
}

type HeadIo = ReturnType<typeof attendHead>

/** o += exp(scores) V and l += the row's sum of exp(scores). */
function foldUnshifted(g: GraphBuilder, { scores, v, old, put, headDim }: HeadIo): void {
  const weights = g.op('Exp', [scores])
  put('l', g.op('Add', [old('l'), g.op('ReduceSum', [weights, g.ints(-1)], { keepdims: 1 })]))
  put('o', g.op('Add', [old('o', headDim), g.op('MatMul', [weights, v])]), headDim)
}

/** The same of scores less the row's maximum. `m_out` must not be the buffer of `m`: it is written before `m` is last read. */
function foldShifted(g: GraphBuilder, { scores, v, old, put, headDim }: HeadIo): void {
  const m = old('m')
  const last = g.ints(-1)
  const mOut = g.op('Max', [m, g.op('ReduceMax', [scores, last], { keepdims: 1 })])
  const weights = g.op('Exp', [g.op('Sub', [scores, mOut])])
  const before = g.op('Exp', [g.op('Sub', [m, mOut])])
  const sum = g.op('ReduceSum', [weights, last], { keepdims: 1 })
  put('l', g.op('Add', [g.op('Mul', [old('l'), before]), sum]))
  put('o', g.op('Add', [g.op('Mul', [old('o', headDim), before]), g.op('MatMul', [weights, v])]), headDim)
  put('m', mOut)
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
  const projected = multiplicand(g, attention, heads * headDim, true)('o_weight', hidden)
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
  const x = g.input('x', [1, 1, hidden])
  const gain = g.input('gain', [hidden])
  const times = multiplicand(g, rmsNorm(g, x, gain, normEpsilon), hidden, true)
  g.output('logits', times('head_weight', headRows), [1, 1, headRows])
  return g.build('logits')
}

const rmsNorm = (g: GraphBuilder, x: Value, gain: Value, epsilon: number): Value =>
  g.op('SimplifiedLayerNormalization', [x, gain], { axis: -1, epsilon: { float: epsilon }, stash_type: 1 })
