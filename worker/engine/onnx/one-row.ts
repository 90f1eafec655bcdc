import type { ModelShape } from '../../../shared/model-shape.ts'
import type { Floats } from '../host-tensors.ts'
import type { GraphBuilder, Value } from './graph-builder.ts'
import { capped } from './parts.ts'
import type { Projected } from './project-graph.ts'

/**
 * Attention of a single query to one range of keys, as in decoding: o, l and m of that range alone. Reading keys and values
 * is all the work, so no product packs them first (see `productsWithKeys` and `sumOfValues`). What stands between the
 * products is done for all heads at once.
 */
export function attendOneGraph(shape: ModelShape, g: GraphBuilder): Uint8Array {
  const { heads, kvHeads, headDim, scoreCap } = shape
  const ofHeads = (value: Value): Value => g.op('Reshape', [value, g.ints(heads, 1, -1)])
  const q = scaledQuery(shape, g, g.input('q', [heads, headDim, 1]))
  const scores = capped(g, ofHeads(productsWithKeys(shape, g, q)), scoreCap)
  const keys = g.ints(-1)
  const m = g.op('ReduceMax', [scores, keys], { keepdims: 1 })
  const weights = g.op('Exp', [g.op('Sub', [scores, m])])
  const sums = sumOfValues(shape, g, g.op('Reshape', [weights, g.ints(kvHeads, heads / kvHeads, -1)]))
  g.output('o', ofHeads(sums), [heads, 1, headDim])
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
  const { heads, kvHeads, headDim, scoreCap } = shape
  const q = scaledQuery(shape, g, own.q)
  const k = g.op('Reshape', [own.k, g.ints(kvHeads, headDim, 1)])
  const v = g.op('Reshape', [own.v, g.ints(kvHeads, 1, headDim)])
  const all = g.op('Concat', [productsWithKeys(shape, g, q), g.op('MatMul', [q, k])], { axis: 2 })
  const weights = g.op('Softmax', [capped(g, all, scoreCap)], { axis: -1 })
  const [first, last, end, keys] = [g.ints(0), g.ints(-1), g.ints(Number.MAX_SAFE_INTEGER), g.ints(2)]
  const sums = sumOfValues(shape, g, g.op('Slice', [weights, first, last, keys]))
  const ownValue = g.op('MatMul', [g.op('Slice', [weights, last, end, keys]), v])
  return g.op('Reshape', [g.op('Add', [sums, ownValue]), g.ints(1, 1, heads * headDim)])
}

/** One row for each query head of a KV head's group, [kvHeads, rows, headDim]. */
const scaledQuery = ({ kvHeads, headDim, scoreScale }: ModelShape, g: GraphBuilder, q: Value): Value =>
  g.op('Mul', [g.op('Reshape', [q, g.ints(kvHeads, -1, headDim)]), g.float(scoreScale)])

/**
 * Products of such rows with the keys `k0` and so on, [kvHeads, rows, T]. Keys are on the left, which the kernel reads where
 * it lies, once for all queries of the group.
 */
function productsWithKeys(shape: ModelShape, g: GraphBuilder, q: Value): Value {
  const turned = (value: Value): Value => g.op('Transpose', [value], { perm: { ints: [0, 2, 1] } })
  const products = perKvHead(shape, g, turned(q), (columns, h) =>
    g.op('MatMul', [g.input(`k${h}`, [1, 'T', shape.headDim]), columns]),
  )
  return turned(products)
}

/**
 * The values `v0` and so on by their weights, [kvHeads, rows, T]: [kvHeads, rows, headDim]. A product with one column reads
 * them where they lie, once for each query; with many queries it pays to pack them, for all at once.
 */
function sumOfValues(shape: ModelShape, g: GraphBuilder, weights: Value): Value {
  const { heads, kvHeads, headDim } = shape
  const valuesOf = (h: number): Value => g.input(`v${h}`, [1, 'T', headDim])
  if (heads / kvHeads > MOST_COLUMNS)
    return perKvHead(shape, g, weights, (rows, h) =>
      g.op('MatMul', [g.op('Mul', [rows, oneAfterReading(g, valuesOf(h))]), valuesOf(h)]),
    )
  const sums = perKvHead(shape, g, g.op('Unsqueeze', [weights, g.ints(3)]), (columns, h) =>
    g.op('FusedMatMul@com.microsoft', [valuesOf(h), columns], { transA: 1, transB: 0, alpha: { float: 1 } }),
  )
  return g.op('Squeeze', [sums, g.ints(3)])
}

/** Beyond it, 8192 values take a third longer than packed. */
const MOST_COLUMNS = 4

/** The same with each KV head's part of `value`, which follow each other in its first dimension. */
function perKvHead(
  { kvHeads }: ModelShape,
  g: GraphBuilder,
  value: Value,
  of: (part: Value, h: number) => Value,
): Value {
  const parts = g.ops(kvHeads, 'Split', [value], { axis: 0, num_outputs: kvHeads })
  return g.op('Concat', parts.map(of), { axis: 0 })
}

/**
 * The number 1, once `value` has been read into the processor's cache: a reduction reads at the memory's rate, packing at
 * half of it. Without it 8192 values take a sixth longer.
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
