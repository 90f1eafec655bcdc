import type { Tensor2D } from '@tensorflow/tfjs-core'
import type { ModelShape } from '../../../shared/model-shape.ts'
import type { Positions } from '../engine.ts'
import type { Floats, HostAccumulator, HostKv, HostQuery } from '../host-tensors.ts'
import { type KeyRange, keyRanges } from '../key-ranges.ts'
import { MaskCache } from '../mask-cache.ts'
import { capped, floats, scoped } from './operations.ts'
import type { Tf } from './tensorflow.ts'

/** Keys of one product for a chunk of 256 tokens. Fewer rows may see more at once. */
const KEYS_PER_CALL = 512
const SCORES_PER_CALL = KEYS_PER_CALL * 256

/** A row whose largest score is below this has seen hidden keys only. */
const NOTHING_SEEN = -1e29

/** What the query heads of one KV head gathered from a range of keys. */
interface Part {
  /** Normalised. */
  readonly o_rows_hdim: Floats
  readonly l_rows: Floats
  readonly m_rows: Floats
}

interface Seen extends KeyRange {
  readonly window: number | undefined
}

/** Attention of a chunk to ranges of keys, folded into the state of online softmax (arXiv 1805.02867). */
export class Attention {
  readonly #tf: Tf
  readonly #shape: ModelShape
  readonly #masks = new MaskCache()

  constructor(tf: Tf, shape: ModelShape) {
    this.#tf = tf
    this.#shape = shape
  }

  /** Folds the keys of `of` that the queries may see in this layer. */
  fold(layer: number, query: HostQuery, kv: HostKv, of: Positions, state: HostAccumulator): void {
    const { heads, kvHeads, layerShapes } = this.#shape
    const window = layerShapes[layer]?.window
    const rows = (heads / kvHeads) * query.tokens
    const maxKeys = Math.max(KEYS_PER_CALL, Math.floor(SCORES_PER_CALL / rows))
    for (const range of keyRanges(query, of.start, of.start + of.count, maxKeys, window))
      for (let kvHead = 0; kvHead < kvHeads; kvHead++)
        foldPart(state, kvHead * rows, this.#attendHead(query, kv, kvHead, { ...range, window }))
  }

  /**
   * The G query heads of a KV head are rows of one product against its keys. `softmax` is far faster here than its parts,
   * and the sum that it divided by is the reciprocal of the largest weight, as that is exp(0) / sum.
   */
  #attendHead(query: HostQuery, kv: HostKv, kvHead: number, range: Seen): Part {
    const tf = this.#tf
    const { headDim } = kv
    const { heads, kvHeads, scoreScale, scoreCap } = this.#shape
    const rows = (heads / kvHeads) * query.tokens
    return scoped(tf, () => {
      const from = kvHead * rows * headDim
      const q = tf.tensor2d(query.q_heads_seq_hdim.subarray(from, from + rows * headDim), [rows, headDim])
      const k = tf.tensor2d(kv.keys(kvHead, range.start, range.count), [range.count, headDim])
      const v = tf.tensor2d(kv.values(kvHead, range.start, range.count), [range.count, headDim])
      const scores = this.#mask(capped(tf, tf.matMul(tf.mul(q, scoreScale), tf.transpose(k)), scoreCap), query, range)
      const weights = tf.softmax(scores)
      return {
        o_rows_hdim: floats(tf.matMul(weights, v)),
        l_rows: floats(tf.reciprocal(tf.max(weights, -1))),
        m_rows: floats(tf.max(scores, -1)),
      }
    })
  }

  #mask(scores: Tensor2D, query: HostQuery, range: Seen): Tensor2D {
    if (!range.masked) return scores
    const tf = this.#tf
    const { tokens } = query
    const mask_seq_keys = this.#masks.get(tokens, range.count, range.start - query.start, range.window)
    const perHead = tf.reshape(scores, [-1, tokens, range.count])
    return tf.reshape(tf.add(perHead, tf.tensor3d(mask_seq_keys, [1, tokens, range.count])), scores.shape)
  }
}

/** Adds what some keys gave to the rows of a state from `firstRow` on. Rows that saw none of them stay as they are. */
function foldPart(state: HostAccumulator, firstRow: number, part: Part): void {
  const { o_heads_seq_hdim: o, l_heads_seq: l, m_heads_seq: m } = state
  const headDim = o.length / l.length
  for (const [i, partM] of part.m_rows.entries()) {
    if (partM < NOTHING_SEEN) continue
    const row = firstRow + i
    const most = Math.max(m[row]!, partM)
    const old = Math.exp(m[row]! - most) // 0 while the row is empty, as m is -inf
    const added = part.l_rows[i]! * Math.exp(partM - most)
    m[row] = most
    l[row] = l[row]! * old + added
    addRow(o, row * headDim, old, part.o_rows_hdim.subarray(i * headDim, (i + 1) * headDim), added)
  }
}

function addRow(o: Floats, from: number, old: number, values: Floats, weight: number): void {
  for (let i = 0; i < values.length; i++) o[from + i] = o[from + i]! * old + values[i]! * weight
}
