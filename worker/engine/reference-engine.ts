import type { ModelShape } from '../../shared/model-shape.ts'
import type { Wire } from '../../shared/plan.ts'
import { RopeTable } from '../model/rope-table.ts'
import type { LayerWeights, ModelWeights } from '../model/weights.ts'
import type { Accumulator, EncodedKv, Engine, Hidden, Kv, Query } from './engine.ts'
import {
  checkEncoded,
  exportHostKv,
  type Floats,
  gatherRows,
  HostAccumulator,
  HostHidden,
  HostKv,
  HostQuery,
  importHostKv,
  own,
} from './host-tensors.ts'
import { decodeRows, encodeRows } from './wire-codec.ts'

/**
 * The oracle of the tests: the Llama layer written as its formulas, in plain loops. Tensors are float32, sums are
 * double. Nothing here is fast, and nothing should be.
 */
export class ReferenceEngine implements Engine {
  readonly name = 'reference'
  readonly shape: ModelShape
  readonly chunkTokens = 256
  readonly #weights: ModelWeights
  readonly #rope: RopeTable

  constructor(shape: ModelShape, weights: ModelWeights) {
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
    const { attentionNorm_dim, qkv_out_dim } = this.#layer(layer)
    const qkv_seq_out = matmul(rmsNorm(x_seq_dim, attentionNorm_dim, normEpsilon), qkv_out_dim, this.shape.hidden)
    const q_heads_seq_hdim = new Float32Array(heads * tokens * headDim)
    for (let t = 0; t < tokens; t++) {
      const head = (h: number) => {
        const from = (t * (heads + 2 * kvHeads) + h) * headDim
        return qkv_seq_out.subarray(from, from + headDim)
      }
      for (let h = 0; h < heads; h++) q_heads_seq_hdim.set(this.#rotate(head(h), start + t), (h * tokens + t) * headDim)
      for (let h = 0; h < kvHeads; h++) {
        cache.keys(h, start + t, 1).set(this.#rotate(head(heads + h), start + t))
        cache.values(h, start + t, 1).set(head(heads + kvHeads + h))
      }
    }
    return new HostQuery(start, tokens, q_heads_seq_hdim)
  }

  async attend(_layer: number, q: Query, kv: Kv, acc: Accumulator): Promise<void> {
    const { heads, kvHeads, headDim } = this.shape
    const query = own(q, HostQuery)
    const cache = own(kv, HostKv)
    const { o_heads_seq_hdim, l_heads_seq, m_heads_seq } = own(acc, HostAccumulator)
    for (let h = 0; h < heads; h++) {
      const kvHead = Math.floor(h / (heads / kvHeads))
      const k_cap_hdim = cache.keys(kvHead, kv.start, kv.capacity)
      const v_cap_hdim = cache.values(kvHead, kv.start, kv.capacity)
      for (let t = 0; t < q.tokens; t++) {
        const row = h * q.tokens + t
        const visible = Math.min(kv.capacity, query.start + t + 1 - kv.start)
        for (let j = 0; j < visible; j++) {
          const product = dot(query.q_heads_seq_hdim, row * headDim, k_cap_hdim, j * headDim, headDim)
          const score = product / Math.sqrt(headDim)
          const m = Math.max(m_heads_seq[row]!, score)
          const old = Math.exp(m_heads_seq[row]! - m) // 0 while the row is empty, as m is -inf
          const weight = Math.exp(score - m)
          for (let i = 0; i < headDim; i++) {
            const at = row * headDim + i
            o_heads_seq_hdim[at] = o_heads_seq_hdim[at]! * old + weight * v_cap_hdim[j * headDim + i]!
          }
          l_heads_seq[row] = l_heads_seq[row]! * old + weight
          m_heads_seq[row] = m
        }
      }
    }
  }

  async mix(layer: number, x: Hidden, acc: Accumulator): Promise<Hidden> {
    const { heads, headDim, hidden, ffn, normEpsilon } = this.shape
    const { tokens, x_seq_dim } = own(x, HostHidden)
    const { o_heads_seq_hdim, l_heads_seq } = own(acc, HostAccumulator)
    const { o_dim_in, mlpNorm_dim, gateUp_out_dim, down_dim_ffn } = this.#layer(layer)
    const attention_seq_in = new Float32Array(tokens * heads * headDim)
    for (let h = 0; h < heads; h++)
      for (let t = 0; t < tokens; t++)
        for (let i = 0; i < headDim; i++) {
          const l = l_heads_seq[h * tokens + t]!
          const o = o_heads_seq_hdim[(h * tokens + t) * headDim + i]!
          attention_seq_in[(t * heads + h) * headDim + i] = l === 0 ? 0 : o / l
        }
    const middle_seq_dim = add(x_seq_dim, matmul(attention_seq_in, o_dim_in, heads * headDim))
    const gateUp_seq_out = matmul(rmsNorm(middle_seq_dim, mlpNorm_dim, normEpsilon), gateUp_out_dim, hidden)
    const gated_seq_ffn = new Float32Array(tokens * ffn)
    for (let t = 0; t < tokens; t++)
      for (let i = 0; i < ffn; i++) {
        const gate = gateUp_seq_out[t * 2 * ffn + i]!
        gated_seq_ffn[t * ffn + i] = (gate / (1 + Math.exp(-gate))) * gateUp_seq_out[(t * 2 + 1) * ffn + i]!
      }
    return new HostHidden(tokens, add(middle_seq_dim, matmul(gated_seq_ffn, down_dim_ffn, ffn)))
  }

  async logits(x: Hidden): Promise<Float32Array> {
    const { hidden, normEpsilon } = this.shape
    const last_dim = own(x, HostHidden).x_seq_dim.subarray((x.tokens - 1) * hidden)
    return matmul(rmsNorm(last_dim, this.#weights.finalNorm_dim, normEpsilon), this.#weights.head_vocab_dim, hidden)
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

  #layer(layer: number): LayerWeights {
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
