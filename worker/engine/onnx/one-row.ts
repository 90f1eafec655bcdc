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
  const { heads, headDim, scoreScale, scoreCap } = shape
  const q = g.op('Mul', [g.input('q', [heads, headDim, 1]), g.float(scoreScale)])
  const scores = capped(g, g.op('Reshape', [productsWithKeys(shape, g, q), g.ints(heads, 1, -1)]), scoreCap)
  const keys = g.ints(-1)
  const m = g.op('ReduceMax', [scores, keys], { keepdims: 1 })
  const weights = g.op('Exp', [g.op('Sub', [scores, m])])
  g.output('o', sumOfValues(shape, g, weights), [heads, 1, headDim])
  g.output('l', g.op('ReduceSum', [weights, keys], { keepdims: 1 }), [heads, 1, 1])
  g.output('m', m, [heads, 1, 1])
  return g.build('attend_one')
}

/**
 * Attention of a new token to the keys before it and to itself, normalised, [1, 1, heads * headDim]: in decoding the whole
 * softmax is of one call. Its own key and value are taken as they are made, not from the cache. Beside the products each
 * node takes about as long as the next, a microsecond or two, however little it computes: the fewer the better.
 */
export function attendStep(shape: ModelShape, g: GraphBuilder, own: Projected): Value {
  const { heads, kvHeads, headDim, scoreScale, scoreCap } = shape
  const group = heads / kvHeads
  const ofKvHeads = (value: Value): Value => g.op('Reshape', [value, g.ints(kvHeads, 1, 1, headDim)])
  const q = g.op('Mul', [g.op('Reshape', [own.q, g.ints(kvHeads, group, headDim, 1)]), g.float(scoreScale)])

  const before = g.op('Reshape', [productsWithKeys(shape, g, q), g.ints(kvHeads, group, 1, -1)])
  const scores = g.op('Concat', [before, g.op('MatMul', [ofKvHeads(own.k), q])], { axis: 3 })
  const weights = g.op('Softmax', [capped(g, scores, scoreCap)], { axis: -1 })
  const [first, last, end, keys] = [g.ints(0), g.ints(-1), g.ints(Number.MAX_SAFE_INTEGER), g.ints(3)]
  const sums = sumOfValues(shape, g, g.op('Slice', [weights, first, last, keys]))
  const ownValue = g.op('Mul', [g.op('Slice', [weights, last, end, keys]), ofKvHeads(own.v)])
  return g.op('Reshape', [g.op('Add', [sums, ownValue]), g.ints(1, 1, heads * headDim)])
}

/** Of a scaled query, [.., headDim, 1], with the keys `k0` and so on: [.., T, 1], which is slow to reduce as it is. */
const productsWithKeys = (shape: ModelShape, g: GraphBuilder, q: Value): Value =>
  perKvHead(shape, g, q, (rows, h) => g.op('MatMul', [g.input(`k${h}`, [1, 'T', shape.headDim]), rows]))

/** The values `v0` and so on by their weights, [.., 1, T]: [.., 1, headDim]. */
const sumOfValues = (shape: ModelShape, g: GraphBuilder, weights: Value): Value =>
  perKvHead(shape, g, weights, (rows, h) => {
    const v = g.input(`v${h}`, [1, 'T', shape.headDim])
    return g.op('MatMul', [g.op('Mul', [rows, oneAfterReading(g, v)]), v])
  })

/** The same with each KV head's rows of `value`, which follow each other in its first dimension. */
function perKvHead(
  { kvHeads }: ModelShape,
  g: GraphBuilder,
  value: Value,
  of: (rows: Value, h: number) => Value,
): Value {
  const rows = g.ops(kvHeads, 'Split', [value], { axis: 0, num_outputs: kvHeads })
  return g.op('Concat', rows.map(of), { axis: 0 })
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
