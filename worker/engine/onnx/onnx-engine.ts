import { HeadraceError } from '../../../shared/errors.ts'
import type { ModelShape } from '../../../shared/model-shape.ts'
import type { Wire } from '../../../shared/plan.ts'
import { RopeTable } from '../../model/rope-table.ts'
import type { LayerWeights, ModelWeights } from '../../model/weights.ts'
import type { Accumulator, EncodedKv, Engine, Hidden, Kv, Query } from '../engine.ts'
import {
  checkEncoded,
  type Floats,
  gatherRows,
  HostAccumulator,
  HostHidden,
  HostKv,
  HostQuery,
  own,
} from '../host-tensors.ts'
import { EMPTY_MAX } from './graphs.ts'
import { type KeyRange, keyRanges } from './key-ranges.ts'
import { MaskCache } from './mask-cache.ts'
import { SessionSet, type Slot, type Slots } from './session-set.ts'
import { TensorPool } from './tensor-pool.ts'
import { decodeKv, encodeKv } from './wire-transport.ts'

/** Keys of one call to a graph: 512 measured best for chunks of 256 tokens. Fewer rows may see more at once. */
const KEYS_PER_CALL = 512
const SCORES_PER_CALL = KEYS_PER_CALL * 256

/** The default engine: ONNX Runtime on the CPU, driven layer by layer. All memory is plain ArrayBuffers of this thread. */
export class OnnxEngine implements Engine {
  readonly name = 'onnx'
  readonly shape: ModelShape
  readonly chunkTokens = 256
  readonly #weights: ModelWeights
  readonly #sessions: SessionSet
  readonly #rope: RopeTable
  readonly #masks = new MaskCache()
  readonly #pool = new TensorPool()

  private constructor(shape: ModelShape, weights: ModelWeights, sessions: SessionSet) {
    this.shape = shape
    this.#weights = weights
    this.#sessions = sessions
    this.#rope = new RopeTable(shape)
  }

  static async create(shape: ModelShape, weights: ModelWeights, threads: number): Promise<OnnxEngine> {
    return new OnnxEngine(shape, weights, await SessionSet.create(shape, threads))
  }

  async embed(tokens_seq: Int32Array): Promise<Hidden> {
    const { hidden } = this.shape
    const tokens = tokens_seq.length
    if (tokens < 1 || tokens > this.chunkTokens)
      throw new HeadraceError('internal', `a chunk has 1 to ${this.chunkTokens} tokens, not ${tokens}`)
    const x_seq_dim = this.#pool.take(tokens * hidden)
    gatherRows(tokens_seq, this.#weights.embedding_vocab_dim, hidden, x_seq_dim)
    return new HostHidden(tokens, x_seq_dim)
  }

  async project(layer: number, x: Hidden, start: number, kv: Kv): Promise<Query> {
    const { hidden, heads, kvHeads, headDim } = this.shape
    const { tokens, x_seq_dim } = own(x, HostHidden)
    const cache = own(kv, HostKv)
    cache.checkRange(start, tokens)
    const { attentionNorm_dim, qkv_out_dim } = this.#layer(layer)
    const { cos, sin } = this.#rope.rows(start, tokens)
    const q_heads_seq_hdim = this.#pool.take(heads * tokens * headDim)
    const outputs: Record<string, Slot> = { q: [q_heads_seq_hdim, [heads, tokens, headDim]] }
    for (let head = 0; head < kvHeads; head++) {
      outputs[`k${head}`] = [cache.keys(head, start, tokens), [tokens, headDim]]
      outputs[`v${head}`] = [cache.values(head, start, tokens), [tokens, headDim]]
    }
    const inputs: Slots = {
      x: [x_seq_dim, [1, tokens, hidden]],
      gain: [attentionNorm_dim, [hidden]],
      qkv: [qkv_out_dim, [(heads + 2 * kvHeads) * headDim, hidden]],
      cos: [cos, [tokens, headDim / 2]],
      sin: [sin, [tokens, headDim / 2]],
    }
    await this.#sessions.run('project', inputs, outputs)
    return new HostQuery(start, tokens, q_heads_seq_hdim)
  }

  async attend(_layer: number, q: Query, kv: Kv, acc: Accumulator): Promise<void> {
    const query = own(q, HostQuery)
    const cache = own(kv, HostKv)
    const state = own(acc, HostAccumulator)
    const rows = (this.shape.heads / this.shape.kvHeads) * query.tokens
    const maxKeys = Math.max(KEYS_PER_CALL, Math.floor(SCORES_PER_CALL / rows))
    for (const range of keyRanges(query, cache.start, cache.start + cache.capacity, maxKeys)) {
      const nextM_heads_seq = this.#pool.take(state.m_heads_seq.length)
      for (let head = 0; head < this.shape.kvHeads; head++)
        await this.#fold(query, cache, head, range, state, nextM_heads_seq)
      this.#pool.give(state.m_heads_seq)
      state.m_heads_seq = nextM_heads_seq
    }
  }

  /** The queries of one KV head against one range of its keys. o and l are written in place, m beside itself. */
  async #fold(
    query: HostQuery,
    kv: HostKv,
    head: number,
    range: KeyRange,
    acc: HostAccumulator,
    nextM_heads_seq: Floats,
  ): Promise<void> {
    const { headDim } = this.shape
    const group = this.shape.heads / this.shape.kvHeads
    const { tokens } = query
    const ofHead = (all: Floats, width: number): Slot => [
      all.subarray(head * group * tokens * width, (head + 1) * group * tokens * width),
      [group, tokens, width],
    ]
    const inputs: Record<string, Slot> = {
      q: ofHead(query.q_heads_seq_hdim, headDim),
      k: [kv.keys(head, range.start, range.count), [range.count, headDim]],
      v: [kv.values(head, range.start, range.count), [range.count, headDim]],
      o: ofHead(acc.o_heads_seq_hdim, headDim),
      l: ofHead(acc.l_heads_seq, 1),
      m: ofHead(acc.m_heads_seq, 1),
    }
    const outputs: Slots = { o_out: inputs['o']!, l_out: inputs['l']!, m_out: ofHead(nextM_heads_seq, 1) }
    if (range.masked)
      inputs['mask'] = [this.#masks.get(tokens, range.count, range.start - query.start), [tokens, range.count]]
    await this.#sessions.run(range.masked ? 'attendMasked' : 'attend', inputs, outputs)
  }

  async mix(layer: number, x: Hidden, acc: Accumulator): Promise<Hidden> {
    const { hidden, heads, headDim, ffn } = this.shape
    const { tokens, x_seq_dim } = own(x, HostHidden)
    const { o_heads_seq_hdim, l_heads_seq } = own(acc, HostAccumulator)
    takeBuffers(x) // the result lies where x lay
    const { o_dim_in, mlpNorm_dim, gateUp_out_dim, down_dim_ffn } = this.#layer(layer)
    const inputs: Slots = {
      o: [o_heads_seq_hdim, [heads, tokens, headDim]],
      l: [l_heads_seq, [heads, tokens, 1]],
      x: [x_seq_dim, [1, tokens, hidden]],
      output: [o_dim_in, [hidden, heads * headDim]],
      gain: [mlpNorm_dim, [hidden]],
      gate_up: [gateUp_out_dim, [2 * ffn, hidden]],
      down: [down_dim_ffn, [hidden, ffn]],
    }
    await this.#sessions.run('mix', inputs, { y: inputs['x']! })
    this.release(acc)
    return new HostHidden(tokens, x_seq_dim)
  }

  async logits(x: Hidden): Promise<Float32Array> {
    const { hidden, vocab } = this.shape
    const last_dim = own(x, HostHidden).x_seq_dim.subarray((x.tokens - 1) * hidden)
    const logits_vocab = new Float32Array(vocab)
    const inputs: Slots = {
      x: [last_dim, [1, hidden]],
      gain: [this.#weights.finalNorm_dim, [hidden]],
      head: [this.#weights.head_vocab_dim, [vocab, hidden]],
    }
    await this.#sessions.run('logits', inputs, { logits: [logits_vocab, [1, vocab]] })
    return logits_vocab
  }

  accumulator(q: Query): Accumulator {
    const rows = this.shape.heads * q.tokens
    const o_heads_seq_hdim = this.#pool.take(rows * this.shape.headDim).fill(0)
    return new HostAccumulator(
      q.tokens,
      o_heads_seq_hdim,
      this.#pool.take(rows).fill(0),
      this.#pool.take(rows).fill(EMPTY_MAX),
    )
  }

  createKv(start: number, capacity: number): Kv {
    const { kvHeads, headDim } = this.shape
    const floats = kvHeads * capacity * headDim
    return new HostKv(start, capacity, kvHeads, headDim, this.#pool.take(floats), this.#pool.take(floats))
  }

  async exportKv(kv: Kv, start: number, count: number, wire: Wire): Promise<EncodedKv> {
    return encodeKv(this.#sessions, own(kv, HostKv), start, count, wire)
  }

  async importKv(kv: Kv, start: number, count: number, encoded: EncodedKv): Promise<void> {
    const cache = own(kv, HostKv)
    cache.checkRange(start, count)
    checkEncoded(cache, count, encoded)
    await decodeKv(this.#sessions, cache, start, count, encoded)
  }

  release(...tensors: (Hidden | Query | Accumulator | Kv)[]): void {
    for (const tensor of tensors) for (const buffer of takeBuffers(tensor)) this.#pool.give(buffer)
  }

  trim(): void {
    this.#pool.clear()
  }

  async close(): Promise<void> {
    this.#pool.clear()
    await this.#sessions.release()
  }

  #layer(layer: number): LayerWeights {
    return this.#weights.layers[layer]!
  }
}

const NO_FLOATS: Floats = new Float32Array(0)

/** Empties a tensor, so that using it again fails instead of reading what another tensor has become. */
function takeBuffers(tensor: object): Floats[] {
  const buffers: Floats[] = []
  for (const [field, value] of Object.entries(tensor)) {
    if (!(value instanceof Float32Array)) continue
    buffers.push(value as Floats)
    Object.assign(tensor, { [field]: NO_FLOATS })
  }
  return buffers
}
