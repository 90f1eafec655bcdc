import assert from 'node:assert/strict'
import { describe, test } from 'node:test'
import { HostKv, HostQuery } from '../../../worker/engine/host-tensors.ts'
import { Attention, type SoftmaxState } from '../../../worker/engine/onnx/attention.ts'
import { GraphBuilder } from '../../../worker/engine/onnx/graph-builder.ts'
import { PLAIN_GRAPHS } from '../../../worker/engine/onnx/graphs.ts'
import { SessionSet } from '../../../worker/engine/onnx/session-set.ts'
import { TensorPool } from '../../../worker/engine/onnx/tensor-pool.ts'
import { llamaShape } from '../../support/llama-shape.ts'
import { maxAbsDifference } from '../../support/numbers.ts'
import { seededRandom } from '../../support/random.ts'

const HEAD_DIM = 16
const shape = llamaShape({
  layers: 1,
  hidden: 64,
  heads: 4,
  kvHeads: 2,
  headDim: HEAD_DIM,
  ffn: 64,
  vocab: 64,
  contextLength: 64,
  tiedHead: true,
})
/** Keys before the queries' own, in two ranges. */
const CONTEXT = 24
/** A few; and as many as are computed strip by strip, the last strip as long as the others, shorter, or shortest. */
const SIZES = [8, 64, 75, 101] as const
const random = seededRandom(5)
const gaussian = (count: number): Float32Array<ArrayBuffer> =>
  Float32Array.from({ length: count }, () => random() + random() + random() - 1.5)

async function newAttention(of = shape): Promise<Attention> {
  const graphs = new SessionSet(1)
  for (const kind of ['attend', 'attendMasked', 'attendTriangle', 'attendShifted', 'attendShiftedMasked'] as const)
    await graphs.add(kind, PLAIN_GRAPHS[kind](of, new GraphBuilder()))
  return new Attention(of, graphs, new TensorPool())
}

/** Queries and keys whose scores in each of three ranges of keys lie near `levels`. */
function inputs(levels: readonly [number, number, number], tokens: number) {
  const { heads, kvHeads } = shape
  const keys = CONTEXT + tokens
  const query = new HostQuery(CONTEXT, tokens, gaussian(heads * tokens * HEAD_DIM))
  const kv = new HostKv(
    0,
    keys,
    kvHeads,
    HEAD_DIM,
    gaussian(kvHeads * keys * HEAD_DIM),
    gaussian(kvHeads * keys * HEAD_DIM),
  )
  // one dimension of every query is 1, and of the keys it says how large their scores are
  for (let row = 0; row < heads * tokens; row++) query.q_heads_seq_hdim[row * HEAD_DIM] = 1
  for (let row = 0; row < kvHeads * keys; row++)
    kv.k_kvheads_cap_hdim[row * HEAD_DIM] =
      levels[Math.min(2, Math.floor(((row % keys) * 2) / CONTEXT))]! * Math.sqrt(HEAD_DIM)
  return { query, kv }
}

/** Softmax attention in float64, all keys at once. */
function exact({ query, kv }: ReturnType<typeof inputs>, window = Number.POSITIVE_INFINITY): Float64Array {
  const { heads, kvHeads } = shape
  const { tokens } = query
  const o_heads_seq_hdim = new Float64Array(heads * tokens * HEAD_DIM)
  for (let row = 0; row < heads * tokens; row++) {
    const head = Math.floor(row / tokens / (heads / kvHeads))
    const seen = CONTEXT + (row % tokens) + 1
    const dot = (at: number) =>
      kv.keys(head, at, 1).reduce((sum, k, i) => sum + k * query.q_heads_seq_hdim[row * HEAD_DIM + i]!, 0)
    const scores = Array.from({ length: seen }, (_, at) =>
      at > seen - 1 - window ? dot(at) / Math.sqrt(HEAD_DIM) : Number.NEGATIVE_INFINITY,
    )
    const most = Math.max(...scores)
    const weights = scores.map((score) => Math.exp(score - most))
    const sum = weights.reduce((all, weight) => all + weight, 0)
    for (const [at, weight] of weights.entries())
      for (const [i, v] of kv.values(head, at, 1).entries()) o_heads_seq_hdim[row * HEAD_DIM + i]! += (weight / sum) * v
  }
  return o_heads_seq_hdim
}

const normalised = ({ o_heads_seq_hdim: o, l_heads_seq: l }: SoftmaxState): Float32Array =>
  o.map((value, i) => value / l[Math.floor(i / HEAD_DIM)]!)

describe('attention in float32', () => {
  const cases: readonly { name: string; levels: [number, number, number]; shifted: boolean }[] = [
    { name: 'small scores', levels: [0, 3, -3], shifted: false },
    { name: 'scores as large as a sum may be', levels: [60, 0, 60], shifted: false },
    { name: 'scores whose exp is infinite', levels: [300, 310, 290], shifted: true },
    { name: 'scores whose exp is infinite in the second range only', levels: [0, 200, 0], shifted: true },
    { name: 'scores whose exp is infinite among own keys only', levels: [0, 0, 120], shifted: true },
    { name: 'scores whose exp is nothing', levels: [-200, -190, -210], shifted: true },
    { name: 'scores whose exp is nothing at first', levels: [-200, 0, 5], shifted: true },
  ]
  for (const tokens of SIZES)
    for (const { name, levels, shifted } of cases)
      test(`is softmax: ${name}, ${tokens} tokens`, async () => {
        const attention = await newAttention()
        const given = inputs(levels, tokens)
        const state = attention.state(tokens)
        for (const [start, end] of [
          [0, CONTEXT / 2],
          [CONTEXT / 2, CONTEXT],
          [CONTEXT, CONTEXT + tokens],
        ] as const)
          await attention.fold(0, given.query, given.kv, { start, count: end - start }, state)
        const error = maxAbsDifference(normalised(state), Float32Array.from(exact(given)))
        assert.ok(error < 1e-4, `off by ${error}`)
        assert.equal(
          state.m_heads_seq !== undefined,
          shifted,
          'the maximum is taken off where it must be, and only there',
        )
      })

  for (const window of [10, 40, 90])
    test(`sees no further back than a window of ${window}`, async () => {
      const attention = await newAttention({ ...shape, layerShapes: [{ ...shape.layerShapes[0]!, window }] })
      const given = inputs([0, 3, -3], 101)
      const state = attention.state(101)
      await attention.fold(0, given.query, given.kv, { start: 0, count: CONTEXT + 101 }, state)
      const error = maxAbsDifference(normalised(state), Float32Array.from(exact(given, window)))
      assert.ok(error < 1e-4, `off by ${error}`)
    })

  test('does not depend on which range comes first', async () => {
    const attention = await newAttention()
    const given = inputs([-150, 100, 20], 8)
    const [forward, backward] = [attention.state(8), attention.state(8)]
    const ranges = [0, 1, 2, 3].map((i) => ({ start: i * 8, count: 8 }))
    for (const range of ranges) await attention.fold(0, given.query, given.kv, range, forward)
    for (const range of ranges.toReversed()) await attention.fold(0, given.query, given.kv, range, backward)
    assert.ok(maxAbsDifference(normalised(forward), normalised(backward)) < 1e-4)
  })
})
