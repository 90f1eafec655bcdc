import type { ModelShape } from '../../../shared/model-shape.ts'
import type { Floats } from '../host-tensors.ts'
import type { GraphBuilder, Value } from './graph-builder.ts'
import { capped } from './parts.ts'
import type { Projected } from './project-graph.ts'

/**
 * Attention of a single query to one range of keys, as in decoding: o, l and m of that range alone. Reading keys and values
 * is all the work, so each product has one row or one column, for which the kernels read a matrix where it lies instead of
 * packing it first; the G query heads of a group follow each other while their keys are in the processor's cache. What
 * stands between the products is done for all heads at once.
 */
export function attendOneGraph(shape: ModelShape, g: GraphBuilder): Uint8Array {
  const { heads, headDim } = shape
  const scores = capped(g, scoresOf(shape, g, scaledRow(shape, g, g.input('q', [heads, headDim, 1]))), shape.scoreCap)
  const keys = g.ints(-1)
  const m = g.op('ReduceMax', [scores, keys], { keepdims: 1 })
  const weights = g.op('Exp', [g.op('Sub', [scores, m])])
  g.output('o', sumOfValues(shape, g, weights), [heads, 1, headDim])
  g.output('l', g.op('ReduceSum', [weights, keys], { keepdims: 1 }), [heads, 1, 1])
  g.output('m', m, [heads, 1, 1])
  return g.build('attend_one')
}

/**
 * Attention of a new token to the keys before it and to itself, normalised, [heads, 1, headDim]: in decoding the whole
 * softmax is of one call. Its own key and value are taken as they are made, not from the cache.
 */
export function attendStep(shape: ModelShape, g: GraphBuilder, own: Projected): Value {
  const { heads, kvHeads, headDim, scoreCap } = shape
  const ofHeads = (value: Value): Value => g.op('Reshape', [value, g.ints(heads, 1, -1)])
  const ofKvHeads = (value: Value): Value => g.op('Reshape', [value, g.ints(kvHeads, -1, headDim)])
  const q_heads_hdim_1 = scaledRow(shape, g, g.op('Reshape', [own.q, g.ints(heads, headDim, 1)]))

  const products = g.op('Mul', [ofKvHeads(q_heads_hdim_1), ofKvHeads(own.k)])
  const ownScore = ofHeads(g.op('ReduceSum', [products, g.ints(-1)], { keepdims: 0 }))
  const scores = g.op('Concat', [scoresOf(shape, g, q_heads_hdim_1), ownScore], { axis: 2 })
  const weights = g.op('Softmax', [capped(g, scores, scoreCap)], { axis: -1 })
  const keys = g.ints(2)
  const before = g.op('Slice', [weights, g.ints(0), g.ints(-1), keys])
  const ownWeight = g.op('Slice', [weights, g.ints(-1), g.ints(Number.MAX_SAFE_INTEGER), keys])
  const ownWeight_kvheads = g.op('Reshape', [ownWeight, g.ints(kvHeads, heads / kvHeads, 1)])
  const ownValue = ofHeads(g.op('Mul', [ownWeight_kvheads, ofKvHeads(own.v)]))
  return g.op('Add', [sumOfValues(shape, g, before), ownValue])
}

const scaledRow = ({ scoreScale }: ModelShape, g: GraphBuilder, q_heads_hdim_1: Value): Value =>
  g.op('Mul', [q_heads_hdim_1, g.float(scoreScale)])

/** Products of a scaled query with the keys `k0` and so on, [heads, 1, T]. */
function scoresOf({ heads, kvHeads, headDim }: ModelShape, g: GraphBuilder, q_heads_hdim_1: Value): Value {
  const q = g.ops(kvHeads, 'Split', [q_heads_hdim_1], { axis: 0, num_outputs: kvHeads })
  const products = q.map((group, h) => g.op('MatMul', [g.input(`k${h}`, [1, 'T', headDim]), group]))
  return g.op('Reshape', [g.op('Concat', products, { axis: 0 }), g.ints(heads, 1, -1)]) // reduced far faster than [.., T, 1]
}

/** The values `v0` and so on by their weights, [heads, 1, headDim]. */
function sumOfValues({ kvHeads, headDim }: ModelShape, g: GraphBuilder, weights_heads_1_keys: Value): Value {
  const weights = g.ops(kvHeads, 'Split', [weights_heads_1_keys], { axis: 0, num_outputs: kvHeads })
  const sums = weights.map((group, h) => {
    const v = g.input(`v${h}`, [1, 'T', headDim])
    return g.op('MatMul', [g.op('Mul', [group, oneAfterReading(g, v)]), v])
  })
  return g.op('Concat', sums, { axis: 0 })
}

/**
 * The number 1, once `value` has been read into the processor's cache: a reduction reads at the memory's rate, the product
 * with a row of weights at half of it. Without it the values of 8192 tokens take 1.4 times as long.
 */
function oneAfterReading(g: GraphBuilder, value: Value): Value {
  const one = g.float(1)
  return g.op('Clip', [g.op('ReduceMax', [value], { keepdims: 0 }), one, one])
}

/** What a single query has gathered from some keys: unnormalised output, sum of weights, largest score. */
interface OneState {
  readonly o_heads_seq_hdim: Floats
  readonly l_heads_seq: Floats
  readonly m_heads_seq: Floats
}

/** Adds the state of some keys to the state of others (online softmax, arXiv 1805.02867), for a single query. */
export function foldState(into: OneState, part: OneState): void {
  const heads = into.m_heads_seq.length
  const headDim = into.o_heads_seq_hdim.length / heads
  for (let head = 0; head < heads; head++) {
    const m = Math.max(into.m_heads_seq[head]!, part.m_heads_seq[head]!)
    const old = Math.exp(into.m_heads_seq[head]! - m)
    const added = Math.exp(part.m_heads_seq[head]! - m)
    into.m_heads_seq[head] = m
    into.l_heads_seq[head] = into.l_heads_seq[head]! * old + part.l_heads_seq[head]! * added
    for (let i = head * headDim; i < (head + 1) * headDim; i++)
      into.o_heads_seq_hdim[i] = into.o_heads_seq_hdim[i]! * old + part.o_heads_seq_hdim[i]! * added
  }
}
