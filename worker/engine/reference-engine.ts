import type { Activation, ModelShape } from '../../shared/model-shape.ts'
import type { Wire } from '../../shared/plan.ts'
import { type RopeRows, RopeTables } from '../model/rope-table.ts'
import { gatherRows, type Rows, scaleRows } from '../model/rows.ts'
import type { Experts, Keeping, LayerWeights, Mlp, ModelWeights } from '../model/weights.ts'
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
import { gather, routeRows, scatterAdd } from './routing.ts'
import { stepByParts } from './step-by-parts.ts'
import { decodeRows, encodeRows } from './wire-codec.ts'

/** The checkpoint's own numbers in its own order. */
export const PLAIN: Keeping<Floats> = {
  keep: ({ values_out_in }) => values_out_in,
  keepLayer: (layer) => layer,
  keepRows: (values) => values,
  keepHead: (rows: Rows) => [rows as Floats],
}

/**
 * The oracle of the tests: every architecture written as its formulas, in plain loops. Tensors are float32, sums are
 * double. Nothing here is fast, and nothing should be.
 */
export class ReferenceEngine implements Engine {
  readonly name = 'reference'
  readonly shape: ModelShape
  readonly chunkTokens = 256
  readonly #weights: ModelWeights<Floats>
  readonly #ropes: RopeTables

  constructor(shape: ModelShape, weights: ModelWeights<Floats>) {
    this.shape = shape
    this.#weights = weights
    this.#ropes = new RopeTables(shape)
  }

  async embed(tokens_seq: Int32Array): Promise<Hidden> {
    const x_seq_dim = new Float32Array(tokens_seq.length * this.shape.hidden)
    gatherRows(tokens_seq, this.#weights.embedding_vocab_dim, this.shape.hidden, x_seq_dim)
    scaleRows(x_seq_dim, this.shape.embeddingScale)
    return new HostHidden(tokens_seq.length, x_seq_dim)
  }

  async project(layer: number, x: Hidden, start: number, kv: Kv, sequence?: number): Promise<Query> {
    const { heads, kvHeads, headDim, qkNorm } = this.shape
    const { x_seq_dim, tokens } = own(x, HostHidden)
    const cache = own(kv, HostKv)
    cache.checkRange(start, tokens)
    const { attention, vectors } = this.#layer(layer)
    const normed = this.#normed(x_seq_dim, vectors.attention_norm)
    const { q: qWeight, k: kWeight, v: vWeight } = attention
    const projected = (weight: Floats, bias?: Floats) => biased(matmul(normed, weight, this.shape.hidden), bias)
    // where all heads are normed as one vector, the gain is as long as a row, else as long as a head: rows of either
    const q_seq_out = this.#normed(projected(qWeight, vectors.q_bias), qkNorm === 'none' ? undefined : vectors.q_norm)
    const k_seq_out = this.#normed(projected(kWeight, vectors.k_bias), qkNorm === 'none' ? undefined : vectors.k_norm)
    const v_seq_out = projected(vWeight, vectors.v_bias)
    const q_heads_seq_hdim = new Float32Array(heads * tokens * headDim)
    for (let t = 0; t < tokens; t++) {
      const rotation = this.#ropes.rows(layer, start + t, 1, sequence ?? start + tokens)
      const head = (all: Floats, of: number, h: number) =>
        all.subarray((t * of + h) * headDim, (t * of + h + 1) * headDim)
      for (let h = 0; h < heads; h++)
        q_heads_seq_hdim.set(rotated(head(q_seq_out, heads, h), rotation), (h * tokens + t) * headDim)
      for (let h = 0; h < kvHeads; h++) {
        cache.keys(h, start + t, 1).set(rotated(head(k_seq_out, kvHeads, h), rotation))
        cache.values(h, start + t, 1).set(head(v_seq_out, kvHeads, h))
      }
    }
    return new HostQuery(start, tokens, q_heads_seq_hdim)
  }

  async attend(layer: number, q: Query, kv: Kv, acc: Accumulator, range?: Positions): Promise<void> {
    const { heads, kvHeads, headDim, scoreScale, scoreCap } = this.shape
    const window = this.shape.layerShapes[layer]?.window ?? Number.POSITIVE_INFINITY
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
        const position = query.start + t
        const visible = Math.min(count, position + 1 - start)
        for (let j = Math.max(0, position - window + 1 - start); j < visible; j++) {
          const product = dot(query.q_heads_seq_hdim, row * headDim, k_keys_hdim, j * headDim, headDim)
          const score = capped(product * scoreScale, scoreCap)
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
    const { heads, headDim, residualScale } = this.shape
    const { tokens, x_seq_dim } = own(x, HostHidden)
    const { o_heads_seq_hdim, l_heads_seq } = own(acc, HostAccumulator)
    const { attention, vectors, mlp, experts } = this.#layer(layer)
    const attention_seq_in = new Float32Array(tokens * heads * headDim)
    for (let h = 0; h < heads; h++)
      for (let t = 0; t < tokens; t++)
        for (let i = 0; i < headDim; i++) {
          const l = l_heads_seq[h * tokens + t]!
          const o = o_heads_seq_hdim[(h * tokens + t) * headDim + i]!
          attention_seq_in[(t * heads + h) * headDim + i] = l === 0 ? 0 : o / l
        }
    const gathered = biased(matmul(attention_seq_in, attention.o, heads * headDim), vectors.o_bias)
    const middle_seq_dim = addScaled(x_seq_dim, this.#normed(gathered, vectors.attention_out_norm), residualScale)
    const input_seq_dim = this.#normed(middle_seq_dim, vectors.mlp_norm)
    const output_seq_dim = mlp ? this.#mlp(input_seq_dim, mlp, vectors) : this.#experts(input_seq_dim, experts!)
    const added_seq_dim = this.#normed(output_seq_dim, vectors.mlp_out_norm)
    return new HostHidden(tokens, addScaled(middle_seq_dim, added_seq_dim, residualScale))
  }

  step(x: Hidden, position: number, kv_layers: readonly Kv[], between?: () => Promise<void>): Promise<Hidden> {
    return stepByParts(this, x, position, kv_layers, between)
  }

  async logits(x: Hidden): Promise<Float32Array> {
    const { hidden, logitScale, logitCap } = this.shape
    const last_dim = own(x, HostHidden).x_seq_dim.subarray((x.tokens - 1) * hidden)
    const normed = this.#normed(last_dim, this.#weights.finalNorm_dim)
    return matmul(normed, this.#weights.head[0]!, hidden).map((logit) => capped(logit * logitScale, logitCap))
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

  /** The same rows where there is no gain. */
  #normed(x_seq_dim: Floats, gain_dim: Floats | undefined): Floats {
    return gain_dim === undefined ? x_seq_dim : rmsNorm(x_seq_dim, gain_dim, this.shape.normEpsilon)
  }

  #mlp(x_seq_dim: Floats, { gate, up, down }: Mlp<Floats>, vectors: LayerWeights<Floats>['vectors']): Floats {
    const { hidden, activation } = this.shape
    const activate = ACTIVATIONS[activation]
    const up_seq_ffn = biased(matmul(x_seq_dim, up, hidden), vectors.up_bias)
    const gate_seq_ffn = biased(matmul(x_seq_dim, gate, hidden), vectors.gate_bias)
    const gated_seq_ffn = gate_seq_ffn.map((value, i) => activate(value) * up_seq_ffn[i]!)
    return biased(matmul(gated_seq_ffn, down, down.length / hidden), vectors.down_bias)
  }

  #experts(x_seq_dim: Floats, { router_experts_dim, mlps }: Experts<Floats>): Floats {
    const { hidden, experts } = this.shape
    const sum_seq_dim = new Float32Array(x_seq_dim.length)
    for (const group of routeRows(matmul(x_seq_dim, router_experts_dim, hidden), experts!)) {
      const rows = new Float32Array(group.rows.length * hidden)
      gather(x_seq_dim, hidden, group.rows, rows)
      scatterAdd(sum_seq_dim, hidden, group, this.#mlp(rows, mlps[group.expert]!, {}))
    }
    return sum_seq_dim
  }
}

const ACTIVATIONS: Readonly<Record<Activation, (x: number) => number>> = {
  silu: (x) => x / (1 + Math.exp(-x)),
  gelu: (x) => (x * (1 + erf(x / Math.SQRT2))) / 2,
  gelu_tanh: (x) => (x * (1 + Math.tanh(Math.sqrt(2 / Math.PI) * (x + 0.044715 * x ** 3)))) / 2,
}

/** Its Taylor series; beyond 4 it is 1 to nine digits. */
function erf(x: number): number {
  if (Math.abs(x) > 4) return Math.sign(x)
  let term = x
  let sum = x
  for (let n = 1; Math.abs(term) > 1e-17 * Math.abs(sum); n++) {
    term *= -(x * x) / n
    sum += term / (2 * n + 1)
  }
  return (2 / Math.sqrt(Math.PI)) * sum
}

const capped = (x: number, cap: number | undefined): number => (cap === undefined ? x : cap * Math.tanh(x / cap))

/** Element i turns with element i + pairs: the checkpoint layout of transformers, not of the paper. Others stay. */
function rotated(vector_hdim: Floats, { cos, sin }: RopeRows): Floats {
  const pairs = cos.length
  return vector_hdim.map((value, i) => {
    if (i >= 2 * pairs) return value
    const pair = i % pairs
    const turned = i < pairs ? -vector_hdim[i + pairs]! : vector_hdim[pair]!
    return value * cos[pair]! + turned * sin[pair]!
  })
}

const addScaled = (a: Floats, b: Floats, scale: number): Floats => a.map((value, i) => value + scale * b[i]!)

const biased = (x_seq_out: Floats, bias_out?: Floats): Floats =>
  bias_out === undefined ? x_seq_out : x_seq_out.map((value, i) => value + bias_out[i % bias_out.length]!)

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
