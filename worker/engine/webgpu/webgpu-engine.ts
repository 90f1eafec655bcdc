import { HeadraceError } from '../../../shared/errors.ts'
import type { ModelShape } from '../../../shared/model-shape.ts'
import type { Wire } from '../../../shared/plan.ts'
import { RopeTables } from '../../model/rope-table.ts'
import { gatherRows, scaleRows } from '../../model/rows.ts'
import type { Accumulator, EncodedKv, Engine, Hidden, Kv, Positions, Query } from '../engine.ts'
import { type Floats, own } from '../host-tensors.ts'
import { stepByParts } from '../step-by-parts.ts'
import { DeviceAttention } from './device-attention.ts'
import { DeviceCache } from './device-cache.ts'
import { DeviceExperts } from './device-experts.ts'
import type { DeviceGraphKind } from './device-graphs.ts'
import { DeviceKv } from './device-kv.ts'
import type { DeviceModel } from './device-model.ts'
import { type DeviceSessions, type DeviceTensor, hostTensor } from './device-sessions.ts'
import { DeviceAccumulator, DeviceHidden, DeviceQuery } from './device-tensors.ts'
import { type DeviceWeights, disposeWeights } from './device-weights.ts'
import type { DeviceWire } from './device-wire.ts'
import { OneAtATime } from './one-at-a-time.ts'

/** Chunks of a span whose tables of angles are kept: a layer goes through all of them before the next begins. */
const MOST_ANGLES = 64

/**
 * ONNX Runtime on a GPU, through WebGPU. Weights, KV and the state of attention stay on the device; what comes and goes
 * are embedding rows, logits, and blocks for the wire.
 *
 * Calls run in the order in which they were made, one at a time: a block may be imported into a cache while a chunk
 * attends to it, and both change what is on the device.
 */
export class WebGpuEngine implements Engine {
  readonly name = 'onnx'
  readonly shape: ModelShape
  readonly f16: boolean
  readonly chunkTokens: number
  readonly #sessions: DeviceSessions
  readonly #weights: DeviceWeights
  readonly #wire: DeviceWire
  readonly #ropes: RopeTables
  readonly #angles = new DeviceCache(2 * MOST_ANGLES)
  readonly #attention: DeviceAttention
  readonly #experts: DeviceExperts
  readonly #queue = new OneAtATime()

  constructor(of: {
    model: DeviceModel
    sessions: DeviceSessions
    weights: DeviceWeights
    wire: DeviceWire
    chunkTokens: number
  }) {
    this.shape = of.model.shape
    this.f16 = of.model.element === 'float16'
    this.chunkTokens = of.chunkTokens
    this.#sessions = of.sessions
    this.#weights = of.weights
    this.#wire = of.wire
    this.#ropes = new RopeTables(of.model.shape)
    this.#attention = new DeviceAttention(of.model, of.sessions)
    this.#experts = new DeviceExperts(of.model.shape, of.sessions)
  }

  async embed(tokens_seq: Int32Array): Promise<Hidden> {
    const { hidden } = this.shape
    const tokens = tokens_seq.length
    if (tokens < 1 || tokens > this.chunkTokens)
      throw new HeadraceError('internal', `a chunk has 1 to ${this.chunkTokens} tokens, not ${tokens}`)
    const x_seq_dim = new Float32Array(tokens * hidden)
    gatherRows(tokens_seq, this.#weights.embedding_vocab_dim, hidden, x_seq_dim)
    scaleRows(x_seq_dim, this.shape.embeddingScale)
    const x = await this.#queue.run(() => this.#upload('hidden', x_seq_dim, [1, tokens, hidden]))
    return new DeviceHidden(tokens, Promise.resolve(x))
  }

  async project(layer: number, x: Hidden, start: number, kv: Kv, sequence?: number): Promise<Query> {
    const { tokens, x: x_seq_dim } = own(x, DeviceHidden)
    const cache = own(kv, DeviceKv)
    cache.checkRange({ start, count: tokens })
    const rows = this.#ropes.rows(layer, start, tokens, sequence ?? start + tokens)
    const rope = JSON.stringify(this.shape.layerShapes[layer]?.rope)
    return this.#queue.run(async () => {
      const table = (name: 'cos' | 'sin') =>
        this.#angles.get(`${name} ${start} ${tokens} ${sequence} ${rope}`, () =>
          this.#upload('table', rows[name], [tokens, this.shape.rotaryDim / 2]),
        )
      const { q, k, v } = await this.#sessions.run('project', {
        x: await x_seq_dim,
        cos: await table('cos'),
        sin: await table('sin'),
        ...this.#weights.layers[layer]!.project,
      })
      await cache.put(this.#sessions, { start, count: tokens, k: k!, v: v! })
      return new DeviceQuery(start, tokens, q!)
    })
  }

  async attend(layer: number, q: Query, kv: Kv, acc: Accumulator, of?: Positions): Promise<void> {
    const [query, cache, state] = [own(q, DeviceQuery), own(kv, DeviceKv), own(acc, DeviceAccumulator)]
    const range = of ?? cache.range
    cache.checkRange(range)
    await this.#queue.run(() => this.#attention.fold(layer, query, cache, range, state))
  }

  /**
   * Resolves when the device has computed it: who times chunks, times arithmetic and not the asking for it. A step of
   * decoding ends with logits, which wait for all before them.
   */
  async mix(layer: number, x: Hidden, acc: Accumulator): Promise<Hidden> {
    const { tokens, x: x_seq_dim } = own(x, DeviceHidden)
    const accumulator = own(acc, DeviceAccumulator)
    return this.#queue.run(async () => {
      const state = accumulator.state ?? (await this.#attention.empty(tokens))
      const old = await x_seq_dim
      const inputs = { o: state.o, l: state.l, x: old, ...this.#weights.layers[layer]!.mix }
      const y = this.shape.layerShapes[layer]?.experts
        ? await this.#experts.mix(inputs, this.#weights.layers[layer]!.experts)
        : (await this.#sessions.run('mix', inputs))['y']!
      for (const used of [state.o, state.l, old]) used.dispose()
      accumulator.replace(undefined)
      if (tokens > 1) await this.#settle()
      return new DeviceHidden(tokens, Promise.resolve(y))
    })
  }

  step(x: Hidden, position: number, kv_layers: readonly Kv[], between?: () => Promise<void>): Promise<Hidden> {
    return stepByParts(this, x, position, kv_layers, between)
  }

  async logits(x: Hidden): Promise<Float32Array> {
    const { x: x_seq_dim } = own(x, DeviceHidden)
    const logits_vocab = new Float32Array(this.shape.vocab)
    return this.#queue.run(async () => {
      let from = 0
      const { final_norm, head } = this.#weights
      for (const head_weight of head) {
        const { logits } = await this.#sessions.run('logits', { x: await x_seq_dim, final_norm, head_weight })
        logits_vocab.set(logits!.data as Float32Array, from)
        from += logits!.size
      }
      return logits_vocab
    })
  }

  lastRow(x: Hidden): Hidden {
    const { x: x_seq_dim } = own(x, DeviceHidden)
    const last = this.#queue.run(async () => {
      const { y } = await this.#sessions.run('lastRow', { x: await x_seq_dim })
      return y!
    })
    return new DeviceHidden(1, last)
  }

  accumulator(q: Query): Accumulator {
    return new DeviceAccumulator(q.tokens)
  }

  createKv(start: number, capacity: number): Kv {
    return new DeviceKv(start, capacity)
  }

  async exportKv(kv: Kv, start: number, count: number, wire: Wire): Promise<EncodedKv> {
    const cache = own(kv, DeviceKv)
    cache.checkRange({ start, count })
    return this.#queue.run(() => this.#wire.encode(cache, { start, count }, wire))
  }

  async importKv(kv: Kv, start: number, count: number, encoded: EncodedKv): Promise<void> {
    const cache = own(kv, DeviceKv)
    cache.checkRange({ start, count })
    await this.#queue.run(() => this.#wire.decode(cache, { start, count }, encoded))
  }

  release(...tensors: (Hidden | Query | Accumulator | Kv)[]): void {
    this.#queue.do(async () => {
      for (const tensor of tensors) {
        if (tensor instanceof DeviceHidden) (await tensor.x).dispose()
        else if (tensor instanceof DeviceQuery) tensor.q.dispose()
        else if (tensor instanceof DeviceAccumulator) tensor.replace(undefined)
        else own(tensor, DeviceKv).release()
      }
    })
  }

  trim(): void {
    this.#queue.do(async () => {
      this.#angles.clear()
      this.#attention.trim()
    })
  }

  async close(): Promise<void> {
    this.trim()
    await this.#queue.run(async () => {
      disposeWeights(this.#weights)
      await this.#wire.release()
      await this.#sessions.release()
    })
  }

  /** Resolves when the device has done all it was asked for: it computes in order. */
  async #settle(): Promise<void> {
    await this.#sessions.run('vectorToHost', { x: this.#weights.final_norm })
  }

  async #upload(kind: DeviceGraphKind, values: Floats, dims: readonly number[]): Promise<DeviceTensor> {
    const { y } = await this.#sessions.run(kind, { x: hostTensor(values, dims) })
    return y!
  }
}
