import type { ModelShape } from '../../../shared/model-shape.ts'
import type { Floats } from '../host-tensors.ts'
import type { GraphBuilder, Value } from './graph-builder.ts'
import { capped } from './parts.ts'

/**
 * Attention of a single query to one range of keys, as in decoding: o, l and m of that range alone. Reading keys and values
 * is all the work, so each product has one row or one column, for which the kernels read a matrix where it lies instead of
 * packing it first; the G query heads of a group follow each other while their keys are in the processor's cache. What
 * stands between the products is done for all heads at once.
 */
export function attendOneGraph(shape: ModelShape, g: GraphBuilder): Uint8Array {
  const { heads, kvHeads, headDim, scoreScale, scoreCap } = shape
  const perKvHead = <T>(one: (head: number) => T): T[] => Array.from({ length: kvHeads }, (_, head) => one(head))
  const ofGroups = { axis: 0, num_outputs: kvHeads }
  const q_heads_hdim_1 = g.op('Mul', [g.input('q', [heads, headDim, 1]), g.float(scoreScale)])
  const q = g.ops(kvHeads, 'Split', [q_heads_hdim_1], ofGroups)
  const products = perKvHead((h) => g.op('MatMul', [g.input(`k${h}`, [1, 'T', headDim]), q[h]!]))
  const scores_heads_keys_1 = capped(g, g.op('Concat', products, { axis: 0 }), scoreCap)
  const scores_heads_1_keys = g.op('Reshape', [scores_heads_keys_1, g.ints(heads, 1, -1)]) // reduced far faster
  const keys = g.ints(-1)
  const m = g.op('ReduceMax', [scores_heads_1_keys, keys], { keepdims: 1 })
  const weights_heads_1_keys = g.op('Exp', [g.op('Sub', [scores_heads_1_keys, m])])
  const weights = g.ops(kvHeads, 'Split', [weights_heads_1_keys], ofGroups)
  const sums = perKvHead((h) => {
    const v = g.input(`v${h}`, [1, 'T', headDim])
    return g.op('MatMul', [g.op('Mul', [weights[h]!, oneAfterReading(g, v)]), v])
  })
  g.output('o', g.op('Concat', sums, { axis: 0 }), [heads, 1, headDim])
  g.output('l', g.op('ReduceSum', [weights_heads_1_keys, keys], { keepdims: 1 }), [heads, 1, 1])
  g.output('m', m, [heads, 1, 1])
  return g.build('attend_one')
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
