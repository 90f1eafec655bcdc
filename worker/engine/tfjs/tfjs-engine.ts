import type { Tensor, Tensor1D, Tensor2D } from '@tensorflow/tfjs-core'
import { asHeadraceError, HeadraceError } from '../../../shared/errors.ts'
import type { ModelShape } from '../../../shared/model-shape.ts'
import type { Wire } from '../../../shared/plan.ts'
import { RopeTables } from '../../model/rope-table.ts'
import { gatherRows, scaleRows } from '../../model/rows.ts'
import type { ModelWeights } from '../../model/weights.ts'
import type { Accumulator, EncodedKv, Engine, Hidden, Kv, Positions, Query } from '../engine.ts'
import { checkEncoded, type Floats, HostAccumulator, HostHidden, HostKv, HostQuery, own } from '../host-tensors.ts'
import { stepByParts } from '../step-by-parts.ts'
import { Attention } from './attention.ts'
import { headsFirst, rotatedHeadsFirst } from './heads.ts'
import { mlpOutput } from './mlp.ts'
import { capped, floats, linear, rmsNorm, scaled, scoped } from './operations.ts'
import type { TensorFlow, Tf } from './tensorflow.ts'
import type { Matrix, TfLayer } from './weights.ts'
import { decodeKv, encodeKv } from './wire.ts'

/** Less than any row's sum that has seen a key; an empty row has 0 and must give 0, not NaN. */
const SMALLEST_SUM = 1e-30

/**
 * TensorFlow.js. Weights are tensors for as long as the engine lives; all else lies in host memory and is a tensor within a
 * call only, so no tensor can be left behind: copying it takes a hundredth of what is computed with it.
 */
export class TfjsEngine implements Engine {
  readonly name = 'tfjs'
  readonly shape: ModelShape
  readonly chunkTokens = 256
  readonly #flow: TensorFlow
  readonly #tf: Tf
  readonly #weights: ModelWeights<Matrix, TfLayer>
  readonly #finalNorm_dim: Tensor1D
  readonly #ropes: RopeTables
  readonly #attention: Attention

  constructor(flow: TensorFlow, shape: ModelShape, weights: ModelWeights<Matrix, TfLayer>) {
    this.shape = shape
    this.#flow = flow
    this.#tf = flow.tf
    this.#weights = weights
    this.#finalNorm_dim = flow.keep(flow.tf.tensor1d(weights.finalNorm_dim))
    this.#ropes = new RopeTables(shape)
    this.#attention = new Attention(flow.tf, shape)
  }

  async embed(tokens_seq: Int32Array): Promise<Hidden> {
    const x_seq_dim = new Float32Array(tokens_seq.length * this.shape.hidden)
    gatherRows(tokens_seq, this.#weights.embedding_vocab_dim, this.shape.hidden, x_seq_dim)
    scaleRows(x_seq_dim, this.shape.embeddingScale)
    return new HostHidden(tokens_seq.length, x_seq_dim)
  }

  async project(layer: number, x: Hidden, start: number, kv: Kv, sequence?: number): Promise<Query> {
    const { heads, kvHeads, headDim, hidden, normEpsilon } = this.shape
    const { x_seq_dim, tokens } = own(x, HostHidden)
    const cache = own(kv, HostKv)
    cache.checkRange(start, tokens)
    const angles = this.#ropes.rows(layer, start, tokens, sequence ?? start + tokens)
    return this.#compute('project', (tf) => {
      const { attention, vectors } = this.#layer(layer)
      const normed = rmsNorm(tf, tf.tensor2d(x_seq_dim, [tokens, hidden]), vectors.attention_norm, normEpsilon)
      const rotated = (name: 'q' | 'k', count: number) => {
        const projected = linear(tf, normed, attention[name], vectors[`${name}_bias`])
        return rotatedHeadsFirst(floats(this.#headsNormed(projected, vectors[`${name}_norm`])), count, headDim, angles)
      }
      const v_seq_heads_hdim = floats(linear(tf, normed, attention.v, vectors.v_bias))
      writeHeads(cache, 'keys', start, tokens, rotated('k', kvHeads))
      writeHeads(cache, 'values', start, tokens, headsFirst(v_seq_heads_hdim, kvHeads, headDim))
      return new HostQuery(start, tokens, rotated('q', heads))
    })
  }

  async attend(layer: number, q: Query, kv: Kv, acc: Accumulator, range?: Positions): Promise<void> {
    const cache = own(kv, HostKv)
    const { start, count } = range ?? { start: cache.start, count: cache.capacity }
    cache.checkRange(start, count)
    const [query, state] = [own(q, HostQuery), own(acc, HostAccumulator)]
    this.#compute('attend', () => this.#attention.fold(layer, query, cache, { start, count }, state))
  }

  async mix(layer: number, x: Hidden, acc: Accumulator): Promise<Hidden> {
    const { hidden, normEpsilon, residualScale } = this.shape
    const { tokens, x_seq_dim } = own(x, HostHidden)
    const state = own(acc, HostAccumulator)
    const y_seq_dim = this.#compute('mix', (tf) => {
      const weights = this.#layer(layer)
      const { attention, vectors } = weights
      const joined = (residual: Tensor2D, output: Tensor2D, gain?: Tensor1D): Tensor2D =>
        tf.add(residual, scaled(tf, rmsNorm(tf, output, gain, normEpsilon), residualScale))
      const gathered = linear(tf, this.#attended(state), attention.o, vectors.o_bias)
      const middle = joined(tf.tensor2d(x_seq_dim, [tokens, hidden]), gathered, vectors.attention_out_norm)
      const input = rmsNorm(tf, middle, vectors.mlp_norm, normEpsilon)
      return floats(joined(middle, mlpOutput(tf, input, weights, this.shape), vectors.mlp_out_norm))
    })
    this.release(x, acc)
    return new HostHidden(tokens, y_seq_dim)
  }

  step(x: Hidden, position: number, kv_layers: readonly Kv[], between?: () => Promise<void>): Promise<Hidden> {
    return stepByParts(this, x, position, kv_layers, between)
  }

  async logits(x: Hidden): Promise<Float32Array> {
    const { hidden, normEpsilon, logitScale, logitCap } = this.shape
    const [head] = this.#weights.head
    if (head === undefined) throw new HeadraceError('internal', 'this engine has no head')
    const last_dim = own(x, HostHidden).x_seq_dim.subarray((x.tokens - 1) * hidden)
    return this.#compute('logits', (tf) => {
      const normed = rmsNorm(tf, tf.tensor2d(last_dim, [1, hidden]), this.#finalNorm_dim, normEpsilon)
      return floats(capped(tf, scaled(tf, linear(tf, normed, head), logitScale), logitCap))
    })
  }

  lastRow(x: Hidden): Hidden {
    const from = (x.tokens - 1) * this.shape.hidden
    return new HostHidden(1, own(x, HostHidden).x_seq_dim.slice(from, from + this.shape.hidden))
  }

  accumulator(q: Query): Accumulator {
    const rows = this.shape.heads * q.tokens
    const m_heads_seq = new Float32Array(rows).fill(Number.NEGATIVE_INFINITY)
    return new HostAccumulator(q.tokens, allocate(rows * this.shape.headDim), new Float32Array(rows), m_heads_seq)
  }

  createKv(start: number, capacity: number): Kv {
    const { kvHeads, headDim } = this.shape
    const size = kvHeads * capacity * headDim
    return new HostKv(start, capacity, kvHeads, headDim, allocate(size), allocate(size))
  }

  async exportKv(kv: Kv, start: number, count: number, wire: Wire): Promise<EncodedKv> {
    return encodeKv(own(kv, HostKv), start, count, wire)
  }

  async importKv(kv: Kv, start: number, count: number, encoded: EncodedKv): Promise<void> {
    const cache = own(kv, HostKv)
    cache.checkRange(start, count)
    checkEncoded(cache, count, encoded)
    decodeKv(cache, start, count, encoded)
  }

  /** Empties them: the garbage collector has their memory, and using one again fails. */
  release(...tensors: (Hidden | Query | Accumulator | Kv)[]): void {
    for (const tensor of tensors)
      for (const [field, value] of Object.entries(tensor))
        if (value instanceof Float32Array) Object.assign(tensor, { [field]: NO_FLOATS })
  }

  /** Nothing is kept. */
  trim(): void {
    return
  }

  async close(): Promise<void> {
    this.#flow.release()
  }

  #layer(layer: number): TfLayer {
    return this.#weights.layers[layer]!
  }

  /** Each head on its own, or all as one vector, as the gain is long. */
  #headsNormed(x_seq_out: Tensor2D, gain: Tensor1D | undefined): Tensor {
    if (gain === undefined) return x_seq_out
    const rows = this.#tf.reshape(x_seq_out, [-1, gain.shape[0]])
    return rmsNorm(this.#tf, rows, gain, this.shape.normEpsilon)
  }

  /** What attention gathered, normalised: a row to a token. */
  #attended({ tokens, o_heads_seq_hdim, l_heads_seq }: HostAccumulator): Tensor2D {
    const { heads, headDim } = this.shape
    const tf = this.#tf
    const sums = tf.maximum(tf.tensor3d(l_heads_seq, [heads, tokens, 1]), SMALLEST_SUM)
    const o = tf.div<Tensor>(tf.tensor3d(o_heads_seq_hdim, [heads, tokens, headDim]), sums)
    return tf.reshape(tf.transpose(o, [1, 0, 2]), [tokens, heads * headDim])
  }

  /** Throws what fails as `engine_failed`, and disposes of every tensor that was made. */
  #compute<T>(what: string, compute: (tf: Tf) => T): T {
    const { tf, problems } = this.#flow
    try {
      const result = scoped(tf, () => compute(tf))
      if (problems.length > 0) throw new Error(problems.splice(0).join('; '))
      return result
    } catch (thrown) {
      if (thrown instanceof HeadraceError) throw thrown
      throw new HeadraceError('engine_failed', `TensorFlow.js, ${what}: ${asHeadraceError(thrown).message}`, {
        cause: thrown,
      })
    }
  }
}

const NO_FLOATS: Floats = new Float32Array(0)

function writeHeads(kv: HostKv, what: 'keys' | 'values', start: number, count: number, x_heads_seq_hdim: Floats): void {
  const size = count * kv.headDim
  for (let head = 0; head < kv.kvHeads; head++)
    kv[what](head, start, count).set(x_heads_seq_hdim.subarray(head * size, (head + 1) * size))
}

function allocate(length: number): Floats {
  try {
    return new Float32Array(length)
  } catch (cause) {
    throw new HeadraceError('out_of_memory', `no room for ${length * 4} bytes`, { cause })
  }
}
