import { crc32 } from 'node:zlib'
import { HeadraceError } from '../../shared/errors.ts'
import type { ModelShape } from '../../shared/model-shape.ts'
import type { FinishReason, Sampling } from '../../shared/protocol/run-types.ts'
import { sample } from '../../worker/decode/sampling.ts'
import type { Accumulator, EncodedKv, Engine, Hidden, Kv, Positions, Query } from '../../worker/engine/engine.ts'
import { stepByParts } from '../../worker/engine/step-by-parts.ts'
import { llamaShape } from '../support/llama-shape.ts'

/**
 * A model whose arithmetic is hashing: every number is exact, and attention is a sum (mod 2^32) over the visible
 * keys, so the answer does not depend on how a prompt is cut or in which order blocks come; but a wrong, stale, missing,
 * doubled or mixed block changes all that follows.
 */

const VOCAB = 24
/** K and V of a token: two numbers each. */
const HEAD_DIM = 2
const ROW_BYTES = 4 * HEAD_DIM

export const toyShape = (layers: number): ModelShape =>
  llamaShape({
    layers,
    hidden: 4,
    heads: 1,
    kvHeads: 1,
    headDim: HEAD_DIM,
    ffn: 8,
    vocab: VOCAB,
    contextLength: 4096,
    tiedHead: true,
  })

/** Murmur's finaliser over a pair. */
function mixed(a: number, b: number): number {
  let h = Math.imul(a ^ 0x9e3779b9, 0x85ebca6b) ^ b
  h = Math.imul(h ^ (h >>> 16), 0x85ebca6b)
  h = Math.imul(h ^ (h >>> 13), 0xc2b2ae35)
  return (h ^ (h >>> 16)) >>> 0
}

const embedding = (token: number): number => mixed(0xe3bed, token)
/** What a token's hidden state becomes in a layer: query (part 0), keys (1, 2) and values (3, 4). */
const projected = (part: number, layer: number, x: number, position: number): number =>
  asFloat(mixed(mixed(mixed(part, layer), position), x))
/** The bits of a float32 in [1, 2): a self-check measures how far two of them are apart. */
const asFloat = (bits: number): number => ((bits & 0x7fffff) | 0x3f800000) >>> 0
/** The bit of such a float that changes it by a half. */
const HALF = 0x400000
const folded = (q: number, k0: number, k1: number, v0: number, v1: number): number =>
  (Math.imul(mixed(q, k0), v0 | 1) + mixed(q ^ k1, v1)) | 0
const afterLayer = (x: number, sum: number, keys: number): number => mixed(mixed(x, sum), keys)

function logitsOf(x: number): Float32Array {
  const logits = new Float32Array(VOCAB)
  for (let id = 0; id < VOCAB; id++) logits[id] = (mixed(x, id) / 2 ** 32) * 6
  return logits
}

export interface ToyRequest {
  readonly promptTokens: Int32Array
  readonly maxTokens: number
  readonly sampling: Sampling
  readonly stopTokens: readonly number[]
}

export interface ToyAnswer {
  readonly tokens: readonly number[]
  readonly reason: FinishReason
  /** By layer: four numbers for each position that was computed, prompt and answer. */
  readonly rows: readonly (readonly number[])[]
}

/** What must come out, by the plainest loop: a token at a time, a layer at a time, all keys before it. */
export function toyAnswer(layers: number, { promptTokens, maxTokens, sampling, stopTokens }: ToyRequest): ToyAnswer {
  const rows: number[][] = Array.from({ length: layers }, () => [])
  const tokens: number[] = []
  for (let position = 0; ; position++) {
    const prompt = position < promptTokens.length
    let x = embedding(prompt ? promptTokens[position]! : tokens.at(-1)!)
    for (const [layer, of] of rows.entries()) {
      for (let part = 1; part <= 4; part++) of.push(projected(part, layer, x, position))
      const q = projected(0, layer, x, position)
      let sum = 0
      for (let at = 0; at < of.length; at += 4)
        sum = (sum + folded(q, of[at]!, of[at + 1]!, of[at + 2]!, of[at + 3]!)) | 0
      x = afterLayer(x, sum, position + 1)
    }
    if (position < promptTokens.length - 1) continue
    const token = sample(logitsOf(x), sampling, position)
    tokens.push(token)
    if (stopTokens.includes(token)) return { tokens, reason: 'stop', rows }
    if (tokens.length === maxTokens) return { tokens, reason: 'length', rows }
  }
}

/** The bytes that a block of these positions has, and their checksum, as `exportKv` makes them. */
export function toyBlockIsTrue(
  answer: ToyAnswer,
  { layer, start, bytes }: { readonly layer: number; readonly start: number; readonly bytes: Uint8Array },
): boolean {
  const count = bytes.length / (2 * ROW_BYTES)
  const expected = new Uint32Array(2 * count * HEAD_DIM)
  for (let i = 0; i < count; i++)
    for (let part = 0; part < 4; part++) {
      const at = (part < 2 ? 0 : count * HEAD_DIM) + i * HEAD_DIM + (part % 2)
      expected[at] = answer.rows[layer]?.[4 * (start + i) + part] ?? 0
    }
  return crc32(new Uint8Array(expected.buffer)) === crc32(bytes)
}

/** What somebody makes of a block who hands on another one than it has computed. */
export function toyLie(bytes: Uint8Array<ArrayBuffer>): Uint8Array<ArrayBuffer> {
  const told = new Uint32Array(bytes.slice().buffer)
  told[0]! ^= HALF
  return new Uint8Array(told.buffer)
}

class ToyHidden implements Hidden {
  readonly x: Uint32Array
  constructor(x: Uint32Array) {
    this.x = x
  }
  get tokens(): number {
    return this.x.length
  }
}

class ToyQuery implements Query {
  readonly start: number
  readonly q: Uint32Array
  constructor(start: number, q: Uint32Array) {
    this.start = start
    this.q = q
  }
  get tokens(): number {
    return this.q.length
  }
}

class ToyAccumulator implements Accumulator {
  readonly sum: Int32Array
  readonly keys: Int32Array
  constructor(tokens: number) {
    this.sum = new Int32Array(tokens)
    this.keys = new Int32Array(tokens)
  }
  get tokens(): number {
    return this.sum.length
  }
}

class ToyKv implements Kv {
  readonly start: number
  readonly capacity: number
  readonly k: Uint32Array
  readonly v: Uint32Array
  constructor(start: number, capacity: number) {
    this.start = start
    this.capacity = capacity
    this.k = new Uint32Array(capacity * HEAD_DIM)
    this.v = new Uint32Array(capacity * HEAD_DIM)
  }
}

/** Seconds of a layer for each token, and for each pair of a query and a key. */
export interface ToySpeed {
  readonly token: number
  readonly pair: number
}

export class ToyEngine implements Engine {
  readonly name = 'reference'
  readonly shape: ModelShape
  readonly chunkTokens: number
  /** Tensors that nobody has released, and the bytes of KV among them. */
  readonly live = new Set<object>()
  kvBytes = 0
  /** The layer that it computes wrongly: the keys of the first token of each piece. */
  liesInLayer: number | undefined
  /** Called when it has. */
  onLie: () => void = () => undefined
  readonly #speed: ToySpeed
  readonly #spend: (seconds: number) => Promise<void>

  /** @param spend lets the time of arithmetic pass */
  constructor(layers: number, chunkTokens: number, speed: ToySpeed, spend: (seconds: number) => Promise<void>) {
    this.shape = toyShape(layers)
    this.chunkTokens = chunkTokens
    this.#speed = speed
    this.#spend = spend
  }

  async embed(tokens: Int32Array): Promise<Hidden> {
    return this.#born(new ToyHidden(Uint32Array.from(tokens, embedding)))
  }

  async project(layer: number, x: Hidden, start: number, kv: Kv): Promise<Query> {
    const hidden = this.#own(x, ToyHidden)
    const into = this.#own(kv, ToyKv)
    checkRange(into, start, hidden.tokens)
    await this.#spend((hidden.tokens * this.#speed.token) / 2)
    const q = new Uint32Array(hidden.tokens)
    for (const [i, state] of hidden.x.entries()) {
      const position = start + i
      const at = (position - into.start) * HEAD_DIM
      q[i] = projected(0, layer, state, position)
      for (let d = 0; d < HEAD_DIM; d++) {
        into.k[at + d] = projected(1 + d, layer, state, position)
        into.v[at + d] = projected(1 + HEAD_DIM + d, layer, state, position)
      }
    }
    if (layer === this.liesInLayer) {
      into.k[(start - into.start) * HEAD_DIM]! ^= HALF
      this.onLie()
    }
    return this.#born(new ToyQuery(start, q))
  }

  async attend(_layer: number, q: Query, kv: Kv, acc: Accumulator, range?: Positions): Promise<void> {
    const [queries, keys, into] = [this.#own(q, ToyQuery), this.#own(kv, ToyKv), this.#own(acc, ToyAccumulator)]
    const { start, count } = range ?? { start: keys.start, count: keys.capacity }
    checkRange(keys, start, count)
    const visible = Math.max(0, Math.min(count, queries.start + queries.tokens - start))
    await this.#spend(queries.tokens * visible * this.#speed.pair)
    for (let i = 0; i < queries.tokens; i++) {
      const last = Math.min(start + count - 1, queries.start + i)
      let sum = into.sum[i]!
      for (let position = start; position <= last; position++) {
        const at = (position - keys.start) * HEAD_DIM
        sum = (sum + folded(queries.q[i]!, keys.k[at]!, keys.k[at + 1]!, keys.v[at]!, keys.v[at + 1]!)) | 0
      }
      into.sum[i] = sum
      into.keys[i]! += Math.max(0, last - start + 1)
    }
  }

  async mix(_layer: number, x: Hidden, acc: Accumulator): Promise<Hidden> {
    const [hidden, { sum, keys }] = [this.#own(x, ToyHidden), this.#own(acc, ToyAccumulator)]
    this.release(x, acc)
    await this.#spend((hidden.tokens * this.#speed.token) / 2)
    return this.#born(new ToyHidden(hidden.x.map((state, i) => afterLayer(state, sum[i]!, keys[i]!))))
  }

  step(x: Hidden, position: number, kv_layers: readonly Kv[], between?: () => Promise<void>): Promise<Hidden> {
    return stepByParts(this, x, position, kv_layers, between)
  }

  async logits(x: Hidden): Promise<Float32Array> {
    return logitsOf(this.#own(x, ToyHidden).x.at(-1)!)
  }

  lastRow(x: Hidden): Hidden {
    return this.#born(new ToyHidden(this.#own(x, ToyHidden).x.slice(-1)))
  }

  accumulator(q: Query): Accumulator {
    return this.#born(new ToyAccumulator(q.tokens))
  }

  createKv(start: number, capacity: number): Kv {
    this.kvBytes += 2 * capacity * ROW_BYTES
    return this.#born(new ToyKv(start, capacity))
  }

  async exportKv(kv: Kv, start: number, count: number): Promise<EncodedKv> {
    const from = this.#own(kv, ToyKv)
    checkRange(from, start, count)
    const [begin, end] = [(start - from.start) * HEAD_DIM, (start + count - from.start) * HEAD_DIM]
    const both = new Uint32Array(2 * count * HEAD_DIM)
    both.set(from.k.subarray(begin, end))
    both.set(from.v.subarray(begin, end), count * HEAD_DIM)
    return { dtype: 'f32', bytes: new Uint8Array(both.buffer) }
  }

  async importKv(kv: Kv, start: number, count: number, { dtype, bytes }: EncodedKv): Promise<void> {
    const into = this.#own(kv, ToyKv)
    checkRange(into, start, count)
    if (dtype !== 'f32' || bytes.length !== 2 * count * ROW_BYTES)
      throw new HeadraceError('kv_shape', `a block of ${count} tokens in ${dtype} has ${bytes.length} bytes`)
    const both = new Uint32Array(bytes.slice().buffer)
    into.k.set(both.subarray(0, count * HEAD_DIM), (start - into.start) * HEAD_DIM)
    into.v.set(both.subarray(count * HEAD_DIM), (start - into.start) * HEAD_DIM)
  }

  release(...tensors: (Hidden | Query | Accumulator | Kv)[]): void {
    for (const tensor of tensors) {
      if (!this.live.delete(tensor)) throw new HeadraceError('internal', `${tensor.constructor.name} released twice`)
      if (tensor instanceof ToyKv) this.kvBytes -= 2 * tensor.capacity * ROW_BYTES
    }
  }

  trim(): void {
    // keeps nothing
  }

  async close(): Promise<void> {
    // holds nothing
  }

  #born<T extends object>(tensor: T): T {
    this.live.add(tensor)
    return tensor
  }

  /** An opaque tensor as the engine's own. */
  #own<T extends object>(tensor: object, kind: abstract new (...args: never[]) => T): T {
    if (tensor instanceof kind && this.live.has(tensor)) return tensor
    throw new HeadraceError('internal', `${kind.name} expected, found ${tensor.constructor.name} or a released tensor`)
  }
}

function checkRange(kv: Kv, start: number, count: number): void {
  if (start >= kv.start && start + count <= kv.start + kv.capacity) return
  throw new HeadraceError('kv_shape', `[${start}, ${start + count}) lies outside of a cache`)
}
