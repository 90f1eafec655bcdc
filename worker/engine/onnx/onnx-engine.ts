import { HeadraceError } from '../../../shared/errors.ts'
import type { ModelShape } from '../../../shared/model-shape.ts'
import type { Wire } from '../../../shared/plan.ts'
import { RopeTable } from '../../model/rope-table.ts'
import { gatherRows } from '../../model/rows.ts'
import type { Accumulator, EncodedKv, Engine, Hidden, Kv, Positions, Query } from '../engine.ts'
import { checkEncoded, type Floats, HostAccumulator, HostHidden, HostKv, HostQuery, own } from '../host-tensors.ts'
import { GraphBuilder } from './graph-builder.ts'
import { EMPTY_MAX, PLAIN_GRAPHS, type PlainKind } from './graphs.ts'
import { type KeyRange, keyRanges } from './key-ranges.ts'
import { MaskCache } from './mask-cache.ts'
import { foldState } from './one-row.ts'
import { SessionSet, type Slot, type Slots } from './session-set.ts'
import { TensorPool } from './tensor-pool.ts'
import type { WeightedGraphs } from './weighted-graphs.ts'
import { decodeKv, encodeKv } from './wire-transport.ts'

/** Keys of one call to a graph: 512 measured best for chunks of 256 tokens. Fewer rows may see more at once. */
const KEYS_PER_CALL = 512
const SCORES_PER_CALL = KEYS_PER_CALL * 256

/** The default engine: ONNX Runtime on the CPU, driven layer by layer. All memory is plain ArrayBuffers of this thread. */
export class OnnxEngine implements Engine {
  readonly name = 'onnx'
  readonly shape: ModelShape
  readonly chunkTokens = 256
  readonly #weighted: WeightedGraphs
  readonly #plain: SessionSet
  readonly #rope: RopeTable
  readonly #masks = new MaskCache()
  readonly #pool = new TensorPool()

  private constructor(shape: ModelShape, weighted: WeightedGraphs, plain: SessionSet) {
    this.shape = shape
    this.#weighted = weighted
    this.#plain = plain
    this.#rope = new RopeTable(shape)
  }

  static async create(shape: ModelShape, weighted: WeightedGraphs, threads: number): Promise<OnnxEngine> {
    const plain = new SessionSet(threads)
    for (const kind of Object.keys(PLAIN_GRAPHS) as PlainKind[])
      await plain.add(kind, PLAIN_GRAPHS[kind](shape, new GraphBuilder()))
    return new OnnxEngine(shape, weighted, plain)
  }

  async embed(tokens_seq: Int32Array): Promise<Hidden> {
    const { hidden } = this.shape
    const tokens = tokens_seq.length
    if (tokens < 1 || tokens > this.chunkTokens)
      throw new HeadraceError('internal', `a chunk has 1 to ${this.chunkTokens} tokens, not ${tokens}`)
    const x_seq_dim = this.#pool.take(tokens * hidden)
    gatherRows(tokens_seq, this.#weighted.embedding_vocab_dim, hidden, x_seq_dim)
    return new HostHidden(tokens, x_seq_dim)
  }

  async project(layer: number, x: Hidden, start: number, kv: Kv): Promise<Query> {
    const { hidden, heads, kvHeads, headDim } = this.shape
    const { tokens, x_seq_dim } = own(x, HostHidden)
    const cache = own(kv, HostKv)
    cache.checkRange(start, tokens)
    const { cos, sin } = this.#rope.rows(start, tokens)
    const q_heads_seq_hdim = this.#pool.take(heads * tokens * headDim)
    const outputs: Record<string, Slot> = { q: [q_heads_seq_hdim, [heads, tokens, headDim]] }
    for (let head = 0; head < kvHeads; head++) {
      outputs[`k${head}`] = [cache.keys(head, start, tokens), [1, tokens, headDim]]
      outputs[`v${head}`] = [cache.values(head, start, tokens), [1, tokens, headDim]]
    }
    const inputs: Slots = {
      x: [x_seq_dim, [1, tokens, hidden]],
      cos: [cos, [tokens, headDim / 2]],
      sin: [sin, [tokens, headDim / 2]],
    }
    await this.#weighted.run('project', layer, tokens, inputs, outputs)
    return new HostQuery(start, tokens, q_heads_seq_hdim)
  }

  async attend(_layer: number, q: Query, kv: Kv, acc: Accumulator, of?: Positions): Promise<void> {
    const query = own(q, HostQuery)
    const cache = own(kv, HostKv)
    const state = own(acc, HostAccumulator)
    const rows = (this.shape.heads / this.shape.kvHeads) * query.tokens
    const maxKeys = Math.max(KEYS_PER_CALL, Math.floor(SCORES_PER_CALL / rows))
    const { start, count } = of ?? { start: cache.start, count: cache.capacity }
    cache.checkRange(start, count)
    for (const range of keyRanges(query, start, start + count, maxKeys))
      if (query.tokens === 1) await this.#foldOne(query, cache, range, state)
      else await this.#fold(query, cache, range, state)
  }

  /** One range of keys. o and l are written in place, m beside itself. */
  async #fold(query: HostQuery, kv: HostKv, range: KeyRange, acc: HostAccumulator): Promise<void> {
    const { heads, kvHeads, headDim } = this.shape
    const { tokens } = query
    const group = heads / kvHeads
    const nextM_heads_seq = this.#pool.take(acc.m_heads_seq.length)
    const inputs: Record<string, Slot> = {}
    const outputs: Record<string, Slot> = {}
    for (let head = 0; head < kvHeads; head++) {
      const ofHead = (all: Floats, width: number): Slot => [
        all.subarray(head * group * tokens * width, (head + 1) * group * tokens * width),
        [group, tokens, width],
      ]
      inputs[`q${head}`] = ofHead(query.q_heads_seq_hdim, headDim)
      inputs[`k${head}`] = [kv.keys(head, range.start, range.count), [range.count, headDim]]
      inputs[`v${head}`] = [kv.values(head, range.start, range.count), [range.count, headDim]]
      inputs[`o${head}`] = outputs[`o${head}_out`] = ofHead(acc.o_heads_seq_hdim, headDim)
      inputs[`l${head}`] = outputs[`l${head}_out`] = ofHead(acc.l_heads_seq, 1)
      inputs[`m${head}`] = ofHead(acc.m_heads_seq, 1)
      outputs[`m${head}_out`] = ofHead(nextM_heads_seq, 1)
    }
    if (range.masked)
      inputs['mask'] = [this.#masks.get(tokens, range.count, range.start - query.start), [tokens, range.count]]
    await this.#plain.run(range.masked ? 'attendMasked' : 'attend', inputs, outputs)
    this.#pool.give(acc.m_heads_seq)
    acc.m_heads_seq = nextM_heads_seq
  }

  /** The same for a single query, which sees all of its range. */
  async #foldOne(query: HostQuery, kv: HostKv, range: KeyRange, acc: HostAccumulator): Promise<void> {
    const { heads, kvHeads, headDim } = this.shape
    const inputs: Record<string, Slot> = { q: [query.q_heads_seq_hdim, [heads, headDim, 1]] }
    for (let head = 0; head < kvHeads; head++) {
      inputs[`k${head}`] = [kv.keys(head, range.start, range.count), [1, range.count, headDim]]
      inputs[`v${head}`] = [kv.values(head, range.start, range.count), [1, range.count, headDim]]
    }
    const part = this.#state(1)
    await this.#plain.run('attendOne', inputs, {
      o: [part.o_heads_seq_hdim, [heads, 1, headDim]],
      l: [part.l_heads_seq, [heads, 1, 1]],
      m: [part.m_heads_seq, [heads, 1, 1]],
    })
    foldState(acc, part)
    this.release(part)
  }

  async mix(layer: number, x: Hidden, acc: Accumulator): Promise<Hidden> {
    const { hidden, heads, headDim } = this.shape
    const { tokens, x_seq_dim } = own(x, HostHidden)
    const { o_heads_seq_hdim, l_heads_seq } = own(acc, HostAccumulator)
    takeBuffers(x) // the result lies where x lay
    const inputs: Slots = {
      o: [o_heads_seq_hdim, [heads, tokens, headDim]],
      l: [l_heads_seq, [heads, tokens, 1]],
      x: [x_seq_dim, [1, tokens, hidden]],
    }
    await this.#weighted.run('mix', layer, tokens, inputs, { y: inputs['x']! })
    this.release(acc)
    return new HostHidden(tokens, x_seq_dim)
  }

  async logits(x: Hidden): Promise<Float32Array> {
    const { hidden, vocab } = this.shape
    const last_dim = own(x, HostHidden).x_seq_dim.subarray((x.tokens - 1) * hidden)
    const logits_vocab = new Float32Array(vocab)
    let from = 0
    for (const [piece, rows] of this.#weighted.headRows.entries()) {
      const logits: Slot = [logits_vocab.subarray(from, from + rows), [1, rows]]
      await this.#weighted.run('logits', piece, 1, { x: [last_dim, [1, hidden]] }, { logits })
      from += rows
    }
    return logits_vocab
  }

  lastRow(x: Hidden): Hidden {
    const { hidden } = this.shape
    const x_1_dim = this.#pool.take(hidden)
    x_1_dim.set(own(x, HostHidden).x_seq_dim.subarray((x.tokens - 1) * hidden, x.tokens * hidden))
    return new HostHidden(1, x_1_dim)
  }

  accumulator(q: Query): Accumulator {
    const state = this.#state(q.tokens)
    state.o_heads_seq_hdim.fill(0)
    state.l_heads_seq.fill(0)
    state.m_heads_seq.fill(EMPTY_MAX)
    return state
  }

  /** With unspecified content. */
  #state(tokens: number): HostAccumulator {
    const rows = this.shape.heads * tokens
    const { headDim } = this.shape
    return new HostAccumulator(tokens, this.#pool.take(rows * headDim), this.#pool.take(rows), this.#pool.take(rows))
  }

  createKv(start: number, capacity: number): Kv {
    const { kvHeads, headDim } = this.shape
    const floats = kvHeads * capacity * headDim
    return new HostKv(start, capacity, kvHeads, headDim, this.#pool.take(floats), this.#pool.take(floats))
  }

  async exportKv(kv: Kv, start: number, count: number, wire: Wire): Promise<EncodedKv> {
    return encodeKv(this.#plain, own(kv, HostKv), start, count, wire)
  }

  async importKv(kv: Kv, start: number, count: number, encoded: EncodedKv): Promise<void> {
    const cache = own(kv, HostKv)
    cache.checkRange(start, count)
    checkEncoded(cache, count, encoded)
    await decodeKv(this.#plain, cache, start, count, encoded)
  }

  release(...tensors: (Hidden | Query | Accumulator | Kv)[]): void {
    for (const tensor of tensors) for (const buffer of takeBuffers(tensor)) this.#pool.give(buffer)
  }

  trim(): void {
    this.#pool.clear()
  }

  async close(): Promise<void> {
    this.#pool.clear()
    await this.#weighted.release()
    await this.#plain.release()
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
