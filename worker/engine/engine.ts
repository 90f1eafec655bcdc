import type { Device, EngineName, Weights } from '../../shared/engine-name.ts'
import type { ModelShape } from '../../shared/model-shape.ts'
import type { Wire } from '../../shared/plan.ts'

/**
 * The engine contract: the arithmetic of one decoder layer in five functions, because attention must be interleaved
 * with what the network brings. Tensors are opaque: only the engine that made one may look inside.
 *
 * The rows of a tensor are consecutive token positions of one run ("a chunk"). All engines pass one contract suite
 * (`test/contract/engine.contract.ts`) and the reference logits of Hugging Face transformers.
 */
export interface Engine {
  readonly name: EngineName
  readonly shape: ModelShape
  /** Weights, KV and products are float16: another class of precision than float32. */
  readonly f16?: boolean
  /** How many tokens are best computed at once; callers cut spans into chunks of at most this many. */
  readonly chunkTokens: number

  /** x_seq_dim: the embedding rows of `tokens_seq`, scaled as the model wants it. An id outside the vocabulary is `invalid_request`. */
  embed(tokens_seq: Int32Array): Promise<Hidden>

  /**
   * Norm, q/k/v projection and RoPE at global positions `start ..`. K and V are written into `kv` at those positions
   * (which must lie inside it); q is returned. `x` is only read.
   *
   * @param sequence tokens that are computed in one go with these: all of a prompt. Some scalings of rotary embedding depend
   *   on it. Default: none after these, as in decoding
   */
  project(layer: number, x: Hidden, start: number, kv: Kv, sequence?: number): Promise<Query>

  /**
   * Folds the keys of `kv` into `acc` by online softmax (arXiv 1805.02867), all in float32: causal by original
   * positions, so a key at position j is seen by a query at position i exactly if j <= i, and i - j < window where the layer
   * has one. Keys no query may see are not computed. The order in which blocks are folded does not matter beyond rounding. `range` leaves out all keys but its
   * own, which must lie inside `kv` (else `kv_shape`).
   */
  attend(layer: number, q: Query, kv: Kv, acc: Accumulator, range?: Positions): Promise<void>

  /** Normalises `acc`, output projection, residual, norm, MLP or experts, residual. Consumes `x` and `acc`: neither is used again. */
  mix(layer: number, x: Hidden, acc: Accumulator): Promise<Hidden>

  /**
   * One token through all layers: of each `project`, `attend` to itself and to all that its KV has before `position`, and
   * `mix`. Each KV gets its K and V. Consumes `x`.
   *
   * @param between awaited between pieces of the arithmetic, each of a layer or some: who waits there lets others compute
   */
  step(x: Hidden, position: number, kv_layers: readonly Kv[], between?: () => Promise<void>): Promise<Hidden>

  /** Final norm and head, of the last row of `x` only: `[vocab]`. `x` is only read. */
  logits(x: Hidden): Promise<Float32Array>

  /** The last row of `x`, as a chunk of one token. `x` is only read. */
  lastRow(x: Hidden): Hidden

  /** The empty accumulator of a chunk: o = 0, l = 0, m = -inf. */
  accumulator(q: Query): Accumulator

  /** Room for the K and V of one layer at positions `[start, start + capacity)`, not yet filled. */
  createKv(start: number, capacity: number): Kv

  /**
   * A copy of the K and V at positions `[start, start + count)` for the wire, little-endian, K (after RoPE) before V:
   * - f32, f16: `[2][kvHeads][count][headDim]`, rounded to nearest, ties to even;
   * - int8: float32 scales `[2][kvHeads][count]`, then q `[2][kvHeads][count][headDim]`. The value is scale * q, and the
   *   scale of a head and token is its largest magnitude / 127.
   *
   * In f32 after all where `wire` cannot hold a value: f16 ends at 65504, and what is not finite must show as such.
   */
  exportKv(kv: Kv, start: number, count: number, wire: Wire): Promise<EncodedKv>

  /** The inverse of `exportKv`. The bytes must have exactly the length that `count` asks for, else `kv_shape`. */
  importKv(kv: Kv, start: number, count: number, encoded: EncodedKv): Promise<void>

  /** Gives the memory of tensors back at once. Using a released tensor is a defect. */
  release(...tensors: (Hidden | Query | Accumulator | Kv)[]): void

  /** No tensor is in use: gives back the memory that was kept for the next one. */
  trim(): void

  /** Frees weights and sessions. No call may be running. */
  close(): Promise<void>
}

/** Token positions `[start, start + count)`. */
export interface Positions {
  readonly start: number
  readonly count: number
}

/** K and V of one layer as they travel: see `Engine.exportKv`. */
export interface EncodedKv {
  readonly dtype: Wire
  /** Need not be aligned. */
  readonly bytes: Uint8Array<ArrayBuffer>
}

/** The residual stream of a chunk, x_seq_dim. */
export interface Hidden {
  readonly tokens: number
}

/** The rotated queries of a chunk at positions `[start, start + tokens)`. */
export interface Query {
  readonly start: number
  readonly tokens: number
}

/** The running attention state (o, m, l) of a chunk, float32. */
export interface Accumulator {
  readonly tokens: number
}

/** K and V of one layer at positions `[start, start + capacity)`. */
export interface Kv {
  readonly start: number
  readonly capacity: number
}

/** What an engine is made with. */
export interface EngineOptions {
  readonly threads: number
  /** Default: `f32`; on a GPU that computes with float16, that. */
  readonly weights?: Weights
  /** Default: `cpu`. */
  readonly device?: Device
  /** Told what the user should know though it is no error. */
  readonly notice?: (text: string) => void
  /** It will compute single tokens: worth more memory and a slower start. */
  readonly decodes?: boolean
  /** Default: true. Without a head there are no logits, and where it is kept apart from the embedding its memory is saved. */
  readonly head?: boolean
}
