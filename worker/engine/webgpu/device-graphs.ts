import type { ModelShape } from '../../../shared/model-shape.ts'
import type { Dim, Element, GraphBuilder, Value } from '../onnx/graph-builder.ts'

/**
 * The graphs of a device, S tokens or T keys at a time. What is fast on a CPU is not on a GPU: weights lie `[in, out]` for
 * plain MatMul, all KV heads are one batched product, keys lie transposed, and every operator is one that the provider
 * has a kernel for. Products are in the precision of the weights; the residual stream, norms, rotation and the state of
 * softmax are float32 whatever that is.
 */
export interface DeviceModel {
  readonly shape: ModelShape
  /** Of weights, keys, values and scores. */
  readonly element: 'float32' | 'float16'
}

type DeviceGraph = (model: DeviceModel, g: GraphBuilder) => Uint8Array

/** Added to the score of a key a query may not see; finite, because -inf - -inf is NaN. A maximum below `SEEN` is such a score. */
export const HIDDEN_KEY = { float32: -2e30, float16: -60_000 } as const
const SEEN = { float32: -1e29, float16: -30_000 } as const
/** Less than any row's sum that has seen a key; an empty row has 0 and must give 0, not NaN. */
const SMALLEST_SUM = 1e-30
/** The end of whatever axis. */
const TO_THE_END = 2 ** 31

/** Whose outputs stay on the device. */
export const DEVICE_GRAPHS = {
  vector: (_, g) => identityGraph(g, ['N']),
  table: (_, g) => identityGraph(g, ['N', 'D']),
  state: ({ shape: { kvHeads } }, g) => identityGraph(g, [kvHeads, 'R', 'D']),
  hidden: ({ shape: { hidden } }, g) => identityGraph(g, [1, 'N', hidden]),
  matrix: matrixGraph,
  mask: maskGraph,
  project: projectGraph,
  attendFirst: (model, g) => attendGraph(model, g, { first: true, masked: false }),
  attendFirstMasked: (model, g) => attendGraph(model, g, { first: true, masked: true }),
  attend: (model, g) => attendGraph(model, g, { first: false, masked: false }),
  attendMasked: (model, g) => attendGraph(model, g, { first: false, masked: true }),
  mix: mixGraph,
  lastRow: lastRowGraph,
  store: storeGraph,
  slice: sliceGraph,
  concat: concatGraph,
} as const satisfies Record<string, DeviceGraph>

/** Whose outputs the host reads. */
export const LEAVING_GRAPHS = {
  vectorToHost: (_, g) => identityGraph(g, ['N']),
  load: loadGraph,
  logits: logitsGraph,
} as const satisfies Record<string, DeviceGraph>

export type DeviceGraphKind = keyof typeof DEVICE_GRAPHS | keyof typeof LEAVING_GRAPHS

function identityGraph(g: GraphBuilder, dims: readonly Dim[]): Uint8Array {
  g.output('y', g.op('Identity', [g.input('x', dims)]), dims)
  return g.build('identity')
}

/** A checkpoint's matrix [out, in] as the product wants it. */
function matrixGraph({ element }: DeviceModel, g: GraphBuilder): Uint8Array {
  const turned = g.op('Transpose', [g.input('x', ['O', 'I'])], { perm: { ints: [1, 0] } })
  g.output('y', cast(g, turned, 'float32', element), ['I', 'O'], element)
  return g.build('matrix')
}

function maskGraph({ element }: DeviceModel, g: GraphBuilder): Uint8Array {
  const x = g.op('Identity', [g.input('x', ['S', 'T'])])
  g.output('y', cast(g, x, 'float32', element), ['S', 'T'], element)
  return g.build('mask')
}

/** Norm, the three projections, rotation. Queries come out scaled, and those of one KV head's group below each other. */
function projectGraph({ shape, element }: DeviceModel, g: GraphBuilder): Uint8Array {
  const { hidden, heads, kvHeads, headDim, normEpsilon } = shape
  const x = g.input('x', [1, 'S', hidden])
  const cos = g.input('cos', ['S', headDim / 2])
  const sin = g.input('sin', ['S', headDim / 2])
  const normed = cast(g, rmsNorm(g, x, g.input('gain', [hidden]), normEpsilon), 'float32', element)
  const times = (name: string, count: number) =>
    g.op('MatMul', [normed, g.input(name, [hidden, count * headDim], element)])
  const rotated = (value: Value, count: number) => {
    const first = g.ints(0) // the tables start at the chunk's own position
    const inputs = [cast(g, value, element, 'float32'), first, cos, sin]
    return g.op('RotaryEmbedding@com.microsoft', inputs, { num_heads: count, interleaved: 0 })
  }
  const perHead = (value: Value, count: number, perm: readonly number[]) =>
    g.op('Transpose', [g.op('Reshape', [value, g.ints(-1, count, headDim)])], { perm: { ints: perm } })

  const scaled = g.op('Mul', [rotated(times('q_weight', heads), heads), g.float(1 / Math.sqrt(headDim))])
  const q_heads_seq_hdim = cast(g, perHead(scaled, heads, [1, 0, 2]), 'float32', element)
  const q = g.op('Reshape', [q_heads_seq_hdim, g.ints(kvHeads, -1, headDim)])
  g.output('q', q, [kvHeads, 'R', headDim], element)
  const k_kvheads_hdim_seq = perHead(rotated(times('k_weight', kvHeads), kvHeads), kvHeads, [1, 2, 0])
  g.output('k', cast(g, k_kvheads_hdim_seq, 'float32', element), [kvHeads, headDim, 'S'], element)
  g.output('v', perHead(times('v_weight', kvHeads), kvHeads, [1, 0, 2]), [kvHeads, 'S', headDim], element)
  return g.build('project')
}

/**
 * One range of keys, folded into the carried state of softmax (arXiv 1805.02867) as blockwise attention does (arXiv
 * 2305.19370). Softmax is one kernel here, and its result tells the sum it divided by: the largest score's weight is 1 / l.
 * So scores are passed over four times instead of seven.
 */
function attendGraph({ shape, element }: DeviceModel, g: GraphBuilder, { first, masked }: AttendKind): Uint8Array {
  const { heads, kvHeads, headDim } = shape
  const q = g.input('q', [kvHeads, 'R', headDim], element)
  const k = g.input('k', [kvHeads, headDim, 'T'], element)
  const v = g.input('v', [kvHeads, 'T', headDim], element)
  const last = g.ints(-1)
  const greatest = (value: Value) => cast(g, g.op('ReduceMax', [value, last], { keepdims: 1 }), element, 'float32')

  let scores = g.op('MatMul', [q, k])
  if (masked) {
    const perHead = g.op('Reshape', [scores, g.ints(heads, -1, 0)])
    scores = g.op('Add', [perHead, g.input('mask', ['S', 'T'], element)])
  }
  const weights = g.op('Softmax', [scores], { axis: -1 })
  const rows = (value: Value) => (masked ? g.op('Reshape', [value, g.ints(kvHeads, -1, 1)]) : value)
  const mNew = rows(greatest(scores))
  const sum = g.op('Div', [g.float(1), rows(greatest(weights))])
  const lNew = masked ? g.op('Mul', [sum, seen(g, mNew, element)]) : sum
  const product = masked ? g.op('Reshape', [weights, g.ints(kvHeads, -1, 0)]) : weights
  const oNew = cast(g, g.op('MatMul', [product, v]), element, 'float32')

  const state = first ? undefined : carried(g, shape)
  const m = state ? g.op('Max', [state.m, mNew]) : mNew
  const lAt = state ? g.op('Mul', [lNew, g.op('Exp', [g.op('Sub', [mNew, m])])]) : lNew
  const before = state && g.op('Exp', [g.op('Sub', [state.m, m])])
  const plus = (old: Value | undefined, value: Value) =>
    old === undefined ? value : g.op('Add', [g.op('Mul', [old, before!]), value])
  g.output('o', plus(state?.o, g.op('Mul', [oNew, lAt])), [kvHeads, 'R', headDim])
  g.output('l', plus(state?.l, lAt), [kvHeads, 'R', 1])
  g.output('m', m, [kvHeads, 'R', 1])
  return g.build(`attend${first ? '_first' : ''}${masked ? '_masked' : ''}`)
}

interface AttendKind {
  /** There is no state yet. */
  readonly first: boolean
  readonly masked: boolean
}

const carried = (g: GraphBuilder, { kvHeads, headDim }: ModelShape) => ({
  o: g.input('o_old', [kvHeads, 'R', headDim]),
  l: g.input('l_old', [kvHeads, 'R', 1]),
  m: g.input('m_old', [kvHeads, 'R', 1]),
})

/** 1 for a row that has seen a key of the range, 0 for one from which all were hidden. */
const seen = (g: GraphBuilder, m: Value, element: DeviceModel['element']): Value =>
  g.op('Cast', [g.op('Greater', [m, g.float(SEEN[element])])], { to: { type: 'float32' } })

/** Normalised attention, output projection, residual, norm, SwiGLU MLP (arXiv 2002.05202), residual. */
function mixGraph({ shape, element }: DeviceModel, g: GraphBuilder): Uint8Array {
  const { hidden, heads, kvHeads, headDim, ffn, normEpsilon } = shape
  const o = g.input('o', [kvHeads, 'R', headDim])
  const l = g.input('l', [kvHeads, 'R', 1])
  const x = g.input('x', [1, 'S', hidden])
  const times = (value: Value, name: string, width: number, out: number) =>
    g.op('MatMul', [value, g.input(name, [width, out], element)])
  const normalised = g.op('Div', [o, g.op('Max', [l, g.float(SMALLEST_SUM)])])
  const perHead = g.op('Reshape', [cast(g, normalised, 'float32', element), g.ints(heads, -1, headDim)])
  const perToken = g.op('Transpose', [perHead], { perm: { ints: [1, 0, 2] } })
  const attention = g.op('Reshape', [perToken, g.ints(1, -1, heads * headDim)])
  const projected = times(attention, 'o_weight', heads * headDim, hidden)
  const residual = g.op('Add', [x, cast(g, projected, element, 'float32')])
  const normed = cast(g, rmsNorm(g, residual, g.input('gain', [hidden]), normEpsilon), 'float32', element)
  const silu = g.op('QuickGelu@com.microsoft', [times(normed, 'gate_weight', hidden, ffn)], { alpha: { float: 1 } })
  const gated = g.op('Mul', [silu, times(normed, 'up_weight', hidden, ffn)])
  const down = cast(g, times(gated, 'down_weight', ffn, hidden), element, 'float32')
  g.output('y', g.op('Add', [residual, down]), [1, 'S', hidden])
  return g.build('mix')
}

function lastRowGraph({ shape: { hidden } }: DeviceModel, g: GraphBuilder): Uint8Array {
  const x = g.input('x', [1, 'S', hidden])
  g.output('y', g.op('Slice', [x, g.ints(-1), g.ints(TO_THE_END), g.ints(1)]), [1, 1, hidden])
  return g.build('last_row')
}

function logitsGraph({ shape: { hidden, normEpsilon }, element }: DeviceModel, g: GraphBuilder): Uint8Array {
  const x = g.input('x', [1, 'S', hidden])
  const last = g.op('Slice', [x, g.ints(-1), g.ints(TO_THE_END), g.ints(1)])
  const normed = cast(g, rmsNorm(g, last, g.input('gain', [hidden]), normEpsilon), 'float32', element)
  const logits = g.op('MatMul', [normed, g.input('head_weight', [hidden, 'V'], element)])
  g.output('logits', cast(g, logits, element, 'float32'), [1, 1, 'V'])
  return g.build('logits')
}

/** K and V of the host, `[kvHeads, T, headDim]` each, as they lie on the device. */
function storeGraph({ shape: { kvHeads, headDim }, element }: DeviceModel, g: GraphBuilder): Uint8Array {
  const k = g.op('Transpose', [g.input('k_host', [kvHeads, 'T', headDim])], { perm: { ints: [0, 2, 1] } })
  g.output('k', cast(g, k, 'float32', element), [kvHeads, headDim, 'T'], element)
  const v = g.op('Identity', [g.input('v_host', [kvHeads, 'T', headDim])])
  g.output('v', cast(g, v, 'float32', element), [kvHeads, 'T', headDim], element)
  return g.build('store')
}

/** The inverse of `store`, of the positions `[from, to)`. */
function loadGraph(model: DeviceModel, g: GraphBuilder): Uint8Array {
  const { element } = model
  const { kvHeads, headDim } = model.shape
  const { k, v } = sliced(model, g)
  const turned = g.op('Transpose', [k], { perm: { ints: [0, 2, 1] } })
  g.output('k_host', cast(g, turned, element, 'float32'), [kvHeads, 'U', headDim])
  g.output('v_host', cast(g, v, element, 'float32'), [kvHeads, 'U', headDim])
  return g.build('load')
}

function sliceGraph(model: DeviceModel, g: GraphBuilder): Uint8Array {
  const { kvHeads, headDim } = model.shape
  const { k, v } = sliced(model, g)
  g.output('k', k, [kvHeads, headDim, 'U'], model.element)
  g.output('v', v, [kvHeads, 'U', headDim], model.element)
  return g.build('slice')
}

function sliced({ shape: { kvHeads, headDim }, element }: DeviceModel, g: GraphBuilder) {
  const bounds = [g.input('from', [1], 'int64'), g.input('to', [1], 'int64')]
  const part = (value: Value, axis: number) => g.op('Slice', [value, ...bounds, g.ints(axis)])
  return {
    k: part(g.input('k_all', [kvHeads, headDim, 'T'], element), 2),
    v: part(g.input('v_all', [kvHeads, 'T', headDim], element), 1),
  }
}

/** Two neighbours as one. */
function concatGraph({ shape: { kvHeads, headDim }, element }: DeviceModel, g: GraphBuilder): Uint8Array {
  const k = (['k_first', 'k_second'] as const).map((name) => g.input(name, [kvHeads, headDim, `T_${name}`], element))
  const v = (['v_first', 'v_second'] as const).map((name) => g.input(name, [kvHeads, `T_${name}`, headDim], element))
  g.output('k', g.op('Concat', k, { axis: 2 }), [kvHeads, headDim, 'T'], element)
  g.output('v', g.op('Concat', v, { axis: 1 }), [kvHeads, 'T', headDim], element)
  return g.build('concat')
}

const rmsNorm = (g: GraphBuilder, x: Value, gain: Value, epsilon: number): Value =>
  g.op('SimplifiedLayerNormalization', [x, gain], { axis: -1, epsilon: { float: epsilon }, stash_type: 1 })

const cast = (g: GraphBuilder, value: Value, from: Element, type: Element): Value =>
  from === type ? value : g.op('Cast', [value], { to: { type } })
