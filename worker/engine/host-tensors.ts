import { HeadraceError } from '../../shared/errors.ts'
import { wireBytes } from '../../shared/wire-bytes.ts'
import type { Accumulator, EncodedKv, Hidden, Kv, Query } from './engine.ts'

export type Floats = Float32Array<ArrayBuffer>

/** The tensors of the engines that compute in host memory. Fields are in memory order; all of it is float32. */
export class HostHidden implements Hidden {
  readonly tokens: number
  x_seq_dim: Floats

  constructor(tokens: number, x_seq_dim: Floats) {
    this.tokens = tokens
    this.x_seq_dim = x_seq_dim
  }
}

/** The query heads that share a KV head are neighbours, so that they are rows of one product against its keys. */
export class HostQuery implements Query {
  readonly start: number
  readonly tokens: number
  q_heads_seq_hdim: Floats

  constructor(start: number, tokens: number, q_heads_seq_hdim: Floats) {
    this.start = start
    this.tokens = tokens
    this.q_heads_seq_hdim = q_heads_seq_hdim
  }
}

/** The state of online softmax: unnormalised output, sum of weights, running maximum. */
export class HostAccumulator implements Accumulator {
  readonly tokens: number
  o_heads_seq_hdim: Floats
  l_heads_seq: Floats
  m_heads_seq: Floats

  constructor(tokens: number, o_heads_seq_hdim: Floats, l_heads_seq: Floats, m_heads_seq: Floats) {
    this.tokens = tokens
    this.o_heads_seq_hdim = o_heads_seq_hdim
    this.l_heads_seq = l_heads_seq
    this.m_heads_seq = m_heads_seq
  }
}

/** Head-major, so that any range of positions of one head is a contiguous view. */
export class HostKv implements Kv {
  readonly start: number
  readonly capacity: number
  readonly kvHeads: number
  readonly headDim: number
  k_kvheads_cap_hdim: Floats
  v_kvheads_cap_hdim: Floats

  constructor(start: number, capacity: number, kvHeads: number, headDim: number, k: Floats, v: Floats) {
    this.start = start
    this.capacity = capacity
    this.kvHeads = kvHeads
    this.headDim = headDim
    this.k_kvheads_cap_hdim = k
    this.v_kvheads_cap_hdim = v
  }

  /** The keys of one head at positions `[start, start + count)`, seq_hdim. */
  keys(head: number, start: number, count: number): Floats {
    return this.#range(this.k_kvheads_cap_hdim, head, start, count)
  }

  values(head: number, start: number, count: number): Floats {
    return this.#range(this.v_kvheads_cap_hdim, head, start, count)
  }

  /** Throws `kv_shape` unless positions `[start, start + count)` lie inside. */
  checkRange(start: number, count: number): void {
    if (start < this.start || count < 1 || start + count > this.start + this.capacity)
      throw new HeadraceError(
        'kv_shape',
        `positions [${start}, ${start + count}) are not inside [${this.start}, ${this.start + this.capacity})`,
      )
  }

  /** The views that positions `[start, start + count)` are made of, in the order of the wire: K of each head, then V. */
  ranges(start: number, count: number): Floats[] {
    this.checkRange(start, count)
    const heads = [...Array(this.kvHeads).keys()]
    return [...heads.map((h) => this.keys(h, start, count)), ...heads.map((h) => this.values(h, start, count))]
  }

  #range(all: Floats, head: number, start: number, count: number): Floats {
    const from = (head * this.capacity + start - this.start) * this.headDim
    return all.subarray(from, from + count * this.headDim)
  }
}

/** K and V at positions `[start, start + count)` as float32, in the order of the wire (see `Engine.exportKv`). */
export function exportHostKv(kv: HostKv, start: number, count: number): Floats {
  const x_rows_hdim = new Float32Array(2 * kv.kvHeads * count * kv.headDim)
  kv.ranges(start, count).forEach((range, i) => {
    x_rows_hdim.set(range, i * range.length)
  })
  return x_rows_hdim
}

/** The inverse of `exportHostKv`. `bytes` need not be aligned. */
export function importHostKv(kv: HostKv, start: number, count: number, bytes: Uint8Array): void {
  let from = 0
  for (const range of kv.ranges(start, count)) {
    new Uint8Array(range.buffer, range.byteOffset, range.byteLength).set(bytes.subarray(from, from + range.byteLength))
    from += range.byteLength
  }
}

/** Throws `kv_shape` unless the bytes are as many as `count` tokens of `kv` have in this precision. */
export function checkEncoded(kv: HostKv, count: number, { dtype, bytes }: EncodedKv): void {
  const expected = wireBytes(kv, count, dtype)
  if (bytes.length === expected) return
  throw new HeadraceError(
    'kv_shape',
    `a block of ${count} tokens in ${dtype} has ${bytes.length} bytes, not ${expected}`,
  )
}

/** An opaque tensor as the engine's own kind of tensor. */
export function own<T extends object>(tensor: object, kind: abstract new (...args: never[]) => T): T {
  if (tensor instanceof kind) return tensor
  throw new HeadraceError(
    'internal',
    `${kind.name} expected, found ${tensor.constructor.name}: another engine's tensor`,
  )
}
