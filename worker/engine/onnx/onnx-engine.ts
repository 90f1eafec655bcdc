import { HeadraceError } from '../../../shared/errors.ts'
import type { ModelShape } from '../../../shared/model-shape.ts'
import type { Wire } from '../../../shared/plan.ts'
import { RopeTables } from '../../model/rope-table.ts'
import { gatherRows, scaleRows } from '../../model/rows.ts'
import type { Accumulator, EncodedKv, Engine, Hidden, Kv, Positions, Query } from '../engine.ts'
import { checkEncoded, type Floats, HostHidden, HostKv, HostQuery, own } from '../host-tensors.ts'
import { gather, routeRows, scatterAdd } from '../routing.ts'
import { orRelease, stepLayer } from '../step-by-parts.ts'
import { Attention, addKeys, SoftmaxState } from './attention.ts'
import { GraphBuilder } from './graph-builder.ts'
import { PLAIN_GRAPHS, type PlainKind } from './graphs.ts'
import { layerScope } from './layers-graph.ts'
import type { Stride } from './packed-sessions.ts'
import { SessionSet, type Slot, type Slots } from './session-set.ts'
import { TensorPool } from './tensor-pool.ts'
import type { WeightedGraphs } from './weighted-graphs.ts'
import { decodeKv, encodeKv } from './wire-transport.ts'

/** The default engine: ONNX Runtime on the CPU, driven layer by layer. All memory is plain ArrayBuffers of this thread. */
export class OnnxEngine implements Engine {
  readonly name = 'onnx'
  readonly shape: ModelShape
  readonly chunkTokens: number
  readonly #weighted: WeightedGraphs
  readonly #plain: SessionSet
  readonly #ropes: RopeTables
  readonly #pool = new TensorPool()
  readonly #attention: Attention

  private constructor(shape: ModelShape, weighted: WeightedGraphs, plain: SessionSet) {
    this.shape = shape
    this.chunkTokens = weighted.chunkTokens
    this.#weighted = weighted
    this.#plain = plain
    this.#ropes = new RopeTables(shape)
    this.#attention = new Attention(shape, plain, this.#pool)
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
    scaleRows(x_seq_dim, this.shape.embeddingScale)
    return new HostHidden(tokens, x_seq_dim)
  }

  async project(layer: number, x: Hidden, start: number, kv: Kv, sequence?: number): Promise<Query> {
    const { heads, kvHeads, headDim } = this.shape
    const { tokens } = x
    const cache = own(kv, HostKv)
    cache.checkRange(start, tokens)
    const inputs = this.#projecting(layer, own(x, HostHidden), start, sequence)
    const q_heads_seq_hdim = this.#pool.take(heads * tokens * headDim)
    const outputs: Record<string, Slot> = { q: [q_heads_seq_hdim, [heads, tokens, headDim]] }
    for (let head = 0; head < kvHeads; head++) {
      outputs[`k${head}_out`] = [cache.keys(head, start, tokens), [1, tokens, headDim]]
      outputs[`v${head}_out`] = [cache.values(head, start, tokens), [1, tokens, headDim]]
    }
    await this.#weighted.run('project', { at: layer }, tokens, inputs, outputs)
    return new HostQuery(start, tokens, q_heads_seq_hdim)
  }

  #projecting(layer: number, { tokens, x_seq_dim }: HostHidden, start: number, sequence = start + tokens) {
    const { hidden, rotaryDim } = this.shape
    const { cos, sin } = this.#ropes.rows(layer, start, tokens, sequence)
    const inputs: Record<string, Slot> = {
      x: [x_seq_dim, [1, tokens, hidden]],
      cos: [cos, [tokens, rotaryDim / 2]],
      sin: [sin, [tokens, rotaryDim / 2]],
    }
    return inputs
  }

  async attend(layer: number, q: Query, kv: Kv, acc: Accumulator, of?: Positions): Promise<void> {
    const cache = own(kv, HostKv)
    const { start, count } = of ?? { start: cache.start, count: cache.capacity }
    cache.checkRange(start, count)
    await this.#attention.fold(layer, own(q, HostQuery), cache, { start, count }, own(acc, SoftmaxState))
  }

  async mix(layer: number, x: Hidden, acc: Accumulator): Promise<Hidden> {
    const { hidden, heads, headDim } = this.shape
    const { tokens, x_seq_dim } = own(x, HostHidden)
    const { o_heads_seq_hdim, l_heads_seq } = own(acc, SoftmaxState)
    takeBuffers(x) // the result lies where x lay
    const inputs: Slots = {
      o: [o_heads_seq_hdim, [heads, tokens, headDim]],
      l: [l_heads_seq, [heads, tokens, 1]],
      x: [x_seq_dim, [1, tokens, hidden]],
    }
    if (this.shape.layerShapes[layer]?.experts) return this.#mixExperts(layer, inputs, tokens, x_seq_dim, acc)
    await this.#weighted.run('mix', { at: layer }, tokens, inputs, { y: inputs['x']! })
    this.release(acc)
    return new HostHidden(tokens, x_seq_dim)
  }

  async step(x: Hidden, position: number, kv_layers: readonly Kv[], between?: () => Promise<void>): Promise<Hidden> {
    const caches = kv_layers.map((kv) => own(kv, HostKv))
    for (const cache of caches) cache.checkRange(position, 1)
    let token = x
    for (let layer = 0; layer < caches.length; ) {
      if (layer > 0) await orRelease(this, [token], async () => between?.())
      const stride = this.#weighted.strides.find(({ from }) => from === layer)
      const seen = caches.slice(layer, stride?.to).map((cache) => this.#seenBefore(layer, cache, position))
      const isWhole = stride !== undefined && seen.every(({ count }) => count > 0)
      token = isWhole
        ? await this.#stride(stride, own(token, HostHidden), position, seen)
        : await stepLayer(this, layer, token, position, caches[layer]!)
      layer = isWhole ? stride.to : layer + 1
    }
    return token
  }

  /** The positions before this one that its query sees. */
  #seenBefore(layer: number, cache: HostKv, position: number): Seen {
    const { window = Number.POSITIVE_INFINITY } = this.shape.layerShapes[layer]!
    const start = Math.max(cache.start, position - window + 1)
    return { cache, start, count: position - start }
  }

  async #stride(stride: Stride, x: HostHidden, position: number, seen: readonly Seen[]): Promise<Hidden> {
    const { kvHeads, headDim } = this.shape
    const { x_seq_dim } = x
    const inputs = this.#projecting(stride.from, x, position)
    for (const [at, { cache, start, count }] of seen.entries()) addKeys(inputs, cache, start, count, layerScope(at))
    takeBuffers(x) // the result lies where x lay
    const made = this.#pool.take(2 * kvHeads * headDim * seen.length)
    await this.#weighted.step(stride, inputs, { y: inputs['x']!, kv: [made, [1, 1, made.length]] })
    const rows = seen.flatMap(({ cache }) => cache.ranges(position, 1))
    for (const [i, row] of rows.entries()) row.set(made.subarray(i * headDim, (i + 1) * headDim))
    this.#pool.give(made)
    return new HostHidden(1, x_seq_dim)
  }

  /** The router's choice is made here, between graphs; then each expert sees its own rows at once. */
  async #mixExperts(layer: number, inputs: Slots, tokens: number, x: Floats, acc: Accumulator): Promise<Hidden> {
    const { hidden, experts } = this.shape
    const [residual, input] = [this.#pool.take(x.length), this.#pool.take(x.length)]
    const ratings = this.#pool.take(tokens * experts!.count)
    await this.#weighted.run('join', { at: layer }, tokens, inputs, {
      residual: [residual, [1, tokens, hidden]],
      input: [input, [1, tokens, hidden]],
      ratings: [ratings, [1, tokens, experts!.count]],
    })
    this.release(acc)
    // x has been read: its memory takes the rows of one expert after the other, and a second buffer their results
    const results = this.#pool.take(x.length)
    for (const group of routeRows(ratings, experts!)) {
      const count = group.rows.length
      const own = (buffer: Floats): Slot => [buffer.subarray(0, count * hidden), [1, count, hidden]]
      gather(input, hidden, group.rows, x)
      await this.#weighted.run('expert', { at: layer, expert: group.expert }, count, { x: own(x) }, { y: own(results) })
      scatterAdd(residual, hidden, group, results)
    }
    for (const buffer of [x, input, ratings, results]) this.#pool.give(buffer)
    return new HostHidden(tokens, residual)
  }

  async logits(x: Hidden): Promise<Float32Array> {
    const { hidden, vocab } = this.shape
    if (this.#weighted.headRows.length === 0) throw new HeadraceError('internal', 'this engine has no head')
    const last_dim = own(x, HostHidden).x_seq_dim.subarray((x.tokens - 1) * hidden)
    const logits_vocab = new Float32Array(vocab)
    let from = 0
    for (const [piece, rows] of this.#weighted.headRows.entries()) {
      const logits: Slot = [logits_vocab.subarray(from, from + rows), [1, 1, rows]]
      await this.#weighted.run('logits', { at: piece }, 1, { x: [last_dim, [1, 1, hidden]] }, { logits })
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
    return this.#attention.state(q.tokens)
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
    this.#weighted.trim()
    this.#plain.renew()
  }

  async close(): Promise<void> {
    this.#pool.clear()
    await this.#weighted.release()
    await this.#plain.release()
  }
}

interface Seen extends Positions {
  readonly cache: HostKv
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
