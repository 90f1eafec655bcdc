import type { ModelShape } from '../../shared/model-shape.ts'
import type { Wire } from '../../shared/plan.ts'
import { RopeTable } from '../model/rope-table.ts'
import { gatherRows, type Rows } from '../model/rows.ts'
import type { Keeping, LayerWeights, ModelWeights } from '../model/weights.ts'
import type { Accumulator, EncodedKv, Engine, Hidden, Kv, Positions, Query } from './engine.ts'
import {
  checkEncoded,
  exportHostKv,
  type Floats,
  HostAccumulator,
  HostHidden,
  HostKv,
  HostQuery,
  importHostKv,
  own,
} from './host-tensors.ts'
import { decodeRows, encodeRows } from './wire-codec.ts'

/** The checkpoint's own numbers in its own order. */
export const PLAIN: Keeping<Floats> = {
  keep: ({ values_out_in }) => values_out_in,
  keepLayer: (layer) => layer,
  keepRows: (values) => values,
  keepHead: (rows: Rows) => [rows as Floats],
}

/**
 * The oracle of the tests: the Llama layer written as its formulas, in plain loops. Tensors are float32, sums are
 * double. Nothing here is fast, and nothing should be.
 */
export class ReferenceEngine implements Engine {
  readonly name = 'reference'
  readonly shape: ModelShape
  readonly chunkTokens = 256
  readonly #weights: ModelWeights<Floats>
  readonly #rope: RopeTable

  constructor(shape: ModelShape, weights: ModelWeights<Floats>) {
    this.shape = shape
    this.#weights = weights
    this.#rope = new RopeTable(shape)
  }

  async embed(tokens_seq: Int32Array): Promise<Hidden> {
    const x_seq_dim = new Float32Array(tokens_seq.length * this.shape.hidden)
    gatherRows(tokens_seq, this.#weights.embedding_vocab_dim, this.shape.hidden, x_seq_dim)
    return new HostHidden(tokens_seq.length, x_seq_dim)
  }

  async project(layer: number, x: Hidden, start: number, kv: Kv): Promise<Query> {
    const { heads, kvHeads, headDim, normEpsilon } = this.shape
    const { x_seq_dim, tokens } = own(x, HostHidden)
    const cache = own(kv, HostKv)
    cache.checkRange(start, tokens)
    const { attentionNorm_dim, q, k, v } = this.#layer(layer)
    const normed = rmsNorm(x_seq_dim, attentionNorm_dim, normEpsilon)
    const [q_seq_out, k_seq_out, v_seq_out] = [q, k, v].map((w) => matmul(normed, w, this.shape.hidden))
    const q_heads_seq_hdim = new Float32Array(heads * tokens * headDim)
    for (let t = 0; t < tokens; t++) {
      const head = (all: Floats, of: number, h: number) =>
        all.subarray((t * of + h) * headDim, (t * of + h + 1) * headDim)
      for (let h = 0; h < heads; h++)
        q_heads_seq_hdim.set(this.#rotate(head(q_seq_out!, heads, h), start + t), (h * tokens + t) * headDim)
      for (let h = 0; h < kvHeads; h++) {
        cache.keys(h, start + t, 1).set(this.#rotate(head(k_seq_out!, kvHeads, h), start + t))
        cache.values(h, start + t, 1).set(head(v_seq_out!, kvHeads, h))
      }
    }
    return new HostQuery(start, tokens, q_heads_seq_hdim)
  }

  async attend(_layer: number, q: Query, kv: Kv, acc: Accumulator, range?: Positions): Promise<void> {
    const { heads, kvHeads, headDim } = this.shape
    const query = own(q, HostQuery)
    const cache = own(kv, HostKv)
    const { o_heads_seq_hdim, l_heads_seq, m_heads_seq } = own(acc, HostAccumulator)
    const { start, count } = range ?? { start: kv.start, count: kv.capacity }
    cache.checkRange(start, count)
    for (let h = 0; h < heads; h++) {
      const kvHead = Math.floor(h / (heads / kvHeads))
      const k_keys_hdim = cache.keys(kvHead, start, count)
      const v_keys_hdim = cache.values(kvHead, start, count)
      for (let t = 0; t < q.tokens; t++) {
        const row = h * q.tokens + t
        const visible = Math.min(count, query.start + t + 1 - start)
        for (let j = 0; j < visible; j++) {
          const product = dot(query.q_heads_seq_hdim, row * headDim, k_keys_hdim, j * headDim, headDim)
          const score = product / Math.sqrt(headDim)
          const m = Math.max(m_heads_seq[row]!, score)
          const old = Math.exp(m_heads_seq[row]! - m) // 0 while the row is empty, as m is -inf
          const weight = Math.exp(score - m)
          for (let i = 0; i < headDim; i++) {
            const at = row * headDim + i
            o_heads_seq_hdim[at] = o_heads_seq_hdim[at]! * old + weight * v_keys_hdim[j * headDim + i]!
          }
          l_heads_seq[row] = l_heads_seq[row]! * old + weight
          m_heads_seq[row] = m
        }
      }
    }
  }

  async mix(layer: number, x: Hidden, acc: Accumulator): Promise<Hidden> {
    const { heads, headDim, hidden, normEpsilon } = this.shape
    const { tokens, x_seq_dim } = own(x, HostHidden)
    const { o_heads_seq_hdim, l_heads_seq } = own(acc, HostAccumulator)
    const { o: output, mlpNorm_dim, gate, up, down } = this.#layer(layer)
    const attention_seq_in = new Float32Array(tokens * heads * headDim)
    for (let h = 0; h < heads; h++)
      for (let t = 0; t < tokens; t++)
        for (let i = 0; i < headDim; i++) {
          const l = l_heads_seq[h * tokens + t]!
          const o = o_heads_seq_hdim[(h * tokens + t) * headDim + i]!
          attention_seq_in[(t * heads + h) * headDim + i] = l === 0 ? 0 : o / l
        }
    const middle_seq_dim = add(x_seq_dim, matmul(attention_seq_in, output, heads * headDim))
    const normed = rmsNorm(middle_seq_dim, mlpNorm_dim, normEpsilon)
    const up_seq_ffn = matmul(normed, up, hidden)
    const silu = (value: number): number => value / (1 + Math.exp(-value))
    const gated_seq_ffn = matmul(normed, gate, hidden).map((value, i) => silu(value) * up_seq_ffn[i]!)
    return new HostHidden(tokens, add(middle_seq_dim, matmul(gated_seq_ffn, down, this.shape.ffn)))
  }

  async logits(x: Hidden): Promise<Float32Array> {
    const { hidden, normEpsilon } = this.shape
    const last_dim = own(x, HostHidden).x_seq_dim.subarray((x.tokens - 1) * hidden)
    return matmul(rmsNorm(last_dim, this.#weights.finalNorm_dim, normEpsilon), this.#weights.head[0]!, hidden)
  }

  lastRow(x: Hidden): Hidden {
    return new HostHidden(1, own(x, HostHidden).x_seq_dim.slice((x.tokens - 1) * this.shape.hidden))
  }

  accumulator(q: Query): Accumulator {
    const rows = this.shape.heads * q.tokens
    const m_heads_seq = new Float32Array(rows).fill(Number.NEGATIVE_INFINITY)
    return new HostAccumulator(
      q.tokens,
      new Float32Array(rows * this.shape.headDim),
      new Float32Array(rows),
      m_heads_seq,
    )
  }

  createKv(start: number, capacity: number): Kv {
    const { kvHeads, headDim } = this.shape
    const floats = kvHeads * capacity * headDim
    return new HostKv(start, capacity, kvHeads, headDim, new Float32Array(floats), new Float32Array(floats))
  }

  async exportKv(kv: Kv, start: number, count: number, wire: Wire): Promise<EncodedKv> {
    const x_rows_hdim = exportHostKv(own(kv, HostKv), start, count)
    const bytes = encodeRows(x_rows_hdim, this.shape.headDim, wire)
    return bytes ? { dtype: wire, bytes } : { dtype: 'f32', bytes: new Uint8Array(x_rows_hdim.buffer) }
  }

  async importKv(kv: Kv, start: number, count: number, encoded: EncodedKv): Promise<void> {
    const cache = own(kv, HostKv)
    cache.checkRange(start, count)
    checkEncoded(cache, count, encoded)
    importHostKv(cache, start, count, new Uint8Array(decodeRows(encoded, this.shape.headDim).buffer))
  }

  release(): void {
    // the garbage collector is quick enough for tests
  }

  /** Nothing is kept. */
  trim(): void {
    return
  }

  async close(): Promise<void> {
    // no sessions; the weights go with the engine
  }

  #layer(layer: number): LayerWeights<Floats> {
    return this.#weights.layers[layer]!
  }

  /** Element i turns with element i + headDim / 2: the checkpoint layout of transformers, not of the paper. */
  #rotate(vector_hdim: Floats, position: number): Floats {
    const { cos, sin } = this.#rope.rows(position, 1)
    const pairs = cos.length
    return vector_hdim.map((value, i) => {
      const pair = i % pairs
      const turned = i < pairs ? -vector_hdim[i + pairs]! : vector_hdim[pair]!
      return value * cos[pair]! + turned * sin[pair]!
    })
  }
}

const add = (a: Floats, b: Floats): Floats => a.map((value, i) => value + b[i]!)

/** a [seq, dim] times the transpose of w [out, dim]. */
function matmul(a_seq_dim: Floats, w_out_dim: Floats, dim: number): Floats {
  const seq = a_seq_dim.length / dim
  const out = w_out_dim.length / dim
  const result_seq_out = new Float32Array(seq * out)
  for (let t = 0; t < seq; t++)
    for (let o = 0; o < out; o++) result_seq_out[t * out + o] = dot(a_seq_dim, t * dim, w_out_dim, o * dim, dim)
  return result_seq_out
}

function dot(a: Floats, aFrom: number, b: Floats, bFrom: number, length: number): number {
  let sum = 0
  for (let i = 0; i < length; i++) sum += a[aFrom + i]! * b[bFrom + i]!
  return sum
}

/** Root mean square normalisation (arXiv 1910.07467) of each row. */
function rmsNorm(x_seq_dim: Floats, gain_dim: Floats, epsilon: number): Floats {
  const dim = gain_dim.length
  const result_seq_dim = new Float32Array(x_seq_dim.length)
  for (let from = 0; from < x_seq_dim.length; from += dim) {
    const scale = 1 / Math.sqrt(dot(x_seq_dim, from, x_seq_dim, from, dim) / dim + epsilon)
    for (let i = 0; i < dim; i++) result_seq_dim[from + i] = x_seq_dim[from + i]! * scale * gain_dim[i]!
  }
  return result_seq_dim
}
