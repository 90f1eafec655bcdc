import type { ModelShape } from '../../../shared/model-shape.ts'
import type { GraphBuilder, Value } from '../onnx/graph-builder.ts'
import { capped } from '../onnx/parts.ts'
import { cast, type DeviceModel } from './device-model.ts'

/** Added to the score of a key a query may not see; finite, because -inf - -inf is NaN. A maximum below `SEEN` is such a score. */
export const HIDDEN_KEY = { float32: -2e30, float16: -60_000 } as const
const SEEN = { float32: -1e29, float16: -30_000 } as const

interface AttendKind {
  /** There is no state yet. */
  readonly first: boolean
  readonly masked: boolean
}

/**
 * One range of keys, folded into the carried state of softmax (arXiv 1805.02867) as blockwise attention does (arXiv
 * 2305.19370). Softmax is one kernel here, and its result tells the sum it divided by: the largest score's weight is 1 / l.
 * So scores are passed over four times instead of seven.
 */
export function attendGraph(model: DeviceModel, g: GraphBuilder, kind: AttendKind): Uint8Array {
  const { shape } = model
  const { kvHeads, headDim } = shape
  const range = softmaxOfRange(model, g, kind.masked)
  const state = kind.first ? undefined : carried(g, shape)
  const m = state ? g.op('Max', [state.m, range.m]) : range.m
  const l = state ? g.op('Mul', [range.l, g.op('Exp', [g.op('Sub', [range.m, m])])]) : range.l
  const before = state && g.op('Exp', [g.op('Sub', [state.m, m])])
  const plus = (old: Value | undefined, value: Value) =>
    old === undefined ? value : g.op('Add', [g.op('Mul', [old, before!]), value])
  g.output('o', plus(state?.o, g.op('Mul', [range.o, l])), [kvHeads, 'R', headDim])
  g.output('l', plus(state?.l, l), [kvHeads, 'R', 1])
  g.output('m', m, [kvHeads, 'R', 1])
  return g.build(`attend${kind.first ? '_first' : ''}${kind.masked ? '_masked' : ''}`)
}

const carried = (g: GraphBuilder, { kvHeads, headDim }: ModelShape) => ({
  o: g.input('o_old', [kvHeads, 'R', headDim]),
  l: g.input('l_old', [kvHeads, 'R', 1]),
  m: g.input('m_old', [kvHeads, 'R', 1]),
})

/** Of the keys of one range alone: the mean of values, the sum of weights, the greatest score; float32. */
function softmaxOfRange({ shape, element }: DeviceModel, g: GraphBuilder, masked: boolean) {
  const { kvHeads, headDim } = shape
  const all = scoresOf({ shape, element }, g)
  const scores = masked ? maskedScores({ shape, element }, g, all) : all
  const weights = g.op('Softmax', [scores], { axis: -1 })
  const rows = (value: Value, width: number) => (masked ? g.op('Reshape', [value, g.ints(kvHeads, -1, width)]) : value)
  const greatest = (value: Value) =>
    rows(cast(g, g.op('ReduceMax', [value, g.ints(-1)], { keepdims: 1 }), element, 'float32'), 1)
  const m = greatest(scores)
  const sum = g.op('Div', [g.float(1), greatest(weights)])
  const v = g.input('v', [kvHeads, 'T', headDim], element)
  return {
    m,
    l: masked ? g.op('Mul', [sum, seen(g, m, element)]) : sum,
    o: cast(g, g.op('MatMul', [rows(weights, 0), v]), element, 'float32'),
  }
}

/** [kvHeads, group * S, T] */
function scoresOf({ shape, element }: DeviceModel, g: GraphBuilder): Value {
  const { kvHeads, headDim, scoreCap } = shape
  const q = g.input('q', [kvHeads, 'R', headDim], element)
  const scores = g.op('MatMul', [q, g.input('k', [kvHeads, headDim, 'T'], element)])
  if (scoreCap === undefined) return scores
  return cast(g, capped(g, cast(g, scores, element, 'float32'), scoreCap), 'float32', element)
}

/** [heads, S, T], the keys that a query may not see far below all others. */
function maskedScores({ shape, element }: DeviceModel, g: GraphBuilder, scores: Value): Value {
  const perHead = g.op('Reshape', [scores, g.ints(shape.heads, -1, 0)]) // 0: T as it is
  return g.op('Add', [perHead, g.input('mask', ['S', 'T'], element)])
}

/** 1 for a row that has seen a key of the range, 0 for one from which all were hidden. */
const seen = (g: GraphBuilder, m: Value, element: DeviceModel['element']): Value =>
  g.op('Cast', [g.op('Greater', [m, g.float(SEEN[element])])], { to: { type: 'float32' } })
