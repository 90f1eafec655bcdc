import type { ModelShape } from '../../../shared/model-shape.ts'
import { GraphBuilder, type Value } from './graph-builder.ts'
import { WIRE_GRAPHS } from './wire-graphs.ts'

/**
 * The graphs of the CPU engine. Weights are inputs, so one session of each kind serves all layers; S is the number of
 * tokens of a chunk, T of keys. FusedMatMul with transB takes matrices in the checkpoint's [out, in] order.
 */
export const GRAPHS = {
  project: projectGraph,
  attend: (shape: ModelShape) => attendGraph(shape, false),
  attendMasked: (shape: ModelShape) => attendGraph(shape, true),
  mix: mixGraph,
  logits: logitsGraph,
  ...WIRE_GRAPHS,
} as const satisfies Record<string, (shape: ModelShape) => Uint8Array>
export type GraphKind = keyof typeof GRAPHS

/** The maximum of a row that has seen no key. Finite, because -inf - -inf is NaN. */
export const EMPTY_MAX = -1e30
/** Added to the score of a key a query may not see. Below EMPTY_MAX, so that its weight is 0 in an empty row too. */
export const HIDDEN_KEY = -2e30
/** A row that saw a key has l >= 1, the weight of its largest score; an empty row has 0 and must give 0, not NaN. */
const SMALLEST_SUM = 0.5

/** Norm, the three projections, rotation of q and k; K and V leave per head, straight into the cache. */
function projectGraph({ hidden, heads, kvHeads, headDim, normEpsilon }: ModelShape): Uint8Array {
  const g = new GraphBuilder()
  const x = g.input('x', [1, 'S', hidden])
  const gain = g.input('gain', [hidden])
  const weight = g.input('qkv', [(heads + 2 * kvHeads) * headDim, hidden])
  const cos = g.input('cos', ['S', headDim / 2])
  const sin = g.input('sin', ['S', headDim / 2])
  const first = g.ints(0) // the tables start at the chunk's own position
  const qkv = matmulTransposed(g, rmsNorm(g, x, gain, normEpsilon), weight)
  const sizes = g.ints(heads * headDim, kvHeads * headDim, kvHeads * headDim)
  const [q, k, v] = g.ops(3, 'Split', [qkv, sizes], { axis: -1 }) as [Value, Value, Value]
  const rotate = (value: Value, count: number) =>
    g.op('RotaryEmbedding@com.microsoft', [value, first, cos, sin], { num_heads: count, interleaved: 0 })

  const q_seq_heads_hdim = g.op('Reshape', [rotate(q, heads), g.ints(-1, heads, headDim)])
  const q_heads_seq_hdim = g.op('Transpose', [q_seq_heads_hdim], { perm: { ints: [1, 0, 2] } })
  g.output('q', q_heads_seq_hdim, [heads, 'S', headDim])
  const perHead = (name: string, value: Value) => {
    const flat = g.op('Reshape', [value, g.ints(-1, kvHeads * headDim)])
    g.ops(kvHeads, 'Split', [flat], { axis: -1, num_outputs: kvHeads }).forEach((head, i) => {
      g.output(`${name}${i}`, head, ['S', headDim])
    })
  }
  perHead('k', rotate(k, kvHeads))
  perHead('v', v)
  return g.build('project')
}

/**
 * One KV head, one range of keys, folded into the carried state: o, l and m of online softmax (arXiv 1805.02867), as
 * blockwise attention does (arXiv 2305.19370). The G query heads of the group are rows of the same product, so keys and
 * values are never repeated. `m_out` must not be the buffer of `m`: it is written before `m` is last read.
 */
function attendGraph({ heads, kvHeads, headDim }: ModelShape, masked: boolean): Uint8Array {
  const group = heads / kvHeads
  const g = new GraphBuilder()
  const q = g.input('q', [group, 'S', headDim])
  const k = g.input('k', ['T', headDim])
  const v = g.input('v', ['T', headDim])
  const o = g.input('o', [group, 'S', headDim])
  const l = g.input('l', [group, 'S', 1])
  const m = g.input('m', [group, 'S', 1])
  const last = g.ints(-1)
  const all = matmulTransposed(g, q, k, 1 / Math.sqrt(headDim))
  const scores = masked ? g.op('Add', [all, g.input('mask', ['S', 'T'])]) : all
  const mOut = g.op('Max', [m, g.op('ReduceMax', [scores, last], { keepdims: 1 })])
  const weights = g.op('Exp', [g.op('Sub', [scores, mOut])])
  const old = g.op('Exp', [g.op('Sub', [m, mOut])])
  const sum = g.op('ReduceSum', [weights, last], { keepdims: 1 })
  g.output('l_out', g.op('Add', [g.op('Mul', [l, old]), sum]), [group, 'S', 1])
  g.output('o_out', g.op('Add', [g.op('Mul', [o, old]), g.op('MatMul', [weights, v])]), [group, 'S', headDim])
  g.output('m_out', mOut, [group, 'S', 1])
  return g.build(masked ? 'attend_masked' : 'attend')
}

/** Normalised attention, output projection, residual, norm, SwiGLU MLP (arXiv 2002.05202), residual. */
function mixGraph({ hidden, heads, headDim, ffn, normEpsilon }: ModelShape): Uint8Array {
  const g = new GraphBuilder()
  const o = g.input('o', [heads, 'S', headDim])
  const l = g.input('l', [heads, 'S', 1])
  const x = g.input('x', [1, 'S', hidden])
  const output = g.input('output', [hidden, heads * headDim])
  const gain = g.input('gain', [hidden])
  const gateUp = g.input('gate_up', [2 * ffn, hidden])
  const down = g.input('down', [hidden, ffn])
  const normalised = g.op('Div', [o, g.op('Max', [l, g.float(SMALLEST_SUM)])])
  const attention_seq_heads_hdim = g.op('Transpose', [normalised], { perm: { ints: [1, 0, 2] } })
  const attention = g.op('Reshape', [attention_seq_heads_hdim, g.ints(1, -1, heads * headDim)])
  const projected = matmulTransposed(g, attention, output)
  const [normed, , , residual] = g.ops(4, 'SkipSimplifiedLayerNormalization@com.microsoft', [projected, x, gain], {
    epsilon: { float: normEpsilon },
  }) as [Value, Value, Value, Value]
  const [gate, up] = g.ops(2, 'Split', [matmulTransposed(g, normed, gateUp)], { axis: -1, num_outputs: 2 }) as [
    Value,
    Value,
  ]
  const silu = g.op('QuickGelu@com.microsoft', [gate], { alpha: { float: 1 } })
  const y = g.op('Add', [residual, matmulTransposed(g, g.op('Mul', [silu, up]), down)])
  g.output('y', y, [1, 'S', hidden])
  return g.build('mix')
}

function logitsGraph({ hidden, vocab, normEpsilon }: ModelShape): Uint8Array {
  const g = new GraphBuilder()
  const x = g.input('x', [1, hidden])
  const gain = g.input('gain', [hidden])
  const head = g.input('head', [vocab, hidden])
  g.output('logits', matmulTransposed(g, rmsNorm(g, x, gain, normEpsilon), head), [1, vocab])
  return g.build('logits')
}

const rmsNorm = (g: GraphBuilder, x: Value, gain: Value, epsilon: number): Value =>
  g.op('SimplifiedLayerNormalization', [x, gain], { axis: -1, epsilon: { float: epsilon }, stash_type: 1 })

const matmulTransposed = (g: GraphBuilder, a: Value, b: Value, alpha = 1): Value =>
  g.op('FusedMatMul@com.microsoft', [a, b], { transA: 0, transB: 1, alpha: { float: alpha } })
