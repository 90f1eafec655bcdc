import { ARCHITECTURES } from '../../shared/architectures.ts'
import { HeadraceError } from '../../shared/errors.ts'
import type { GgmlType } from '../../shared/gguf/ggml-types.ts'
import { locateModel } from '../../shared/model-folder.ts'
import type { ModelShape } from '../../shared/model-shape.ts'
import { type Bias, biasesOf, type ExpertMatrix, type Norm, namesOf } from './checkpoint-names.ts'
import { type Rows, sameRows } from './rows.ts'
import { WeightReader } from './weight-reader.ts'

type Floats = Float32Array<ArrayBuffer>
type Bytes = Uint8Array<ArrayBuffer>

type AttentionMatrix = 'q' | 'k' | 'v' | 'o'
/** What a layer adds or multiplies a row by: gains of norms, and biases. */
type VectorName = `${Norm}_norm` | `${Bias}_bias`

/** The MLP, or one expert. */
export type Mlp<M> = Readonly<Record<ExpertMatrix, M>>

/** One decoder layer; `M` is how a matrix is kept. Which vectors there are, the model's shape says. */
export interface LayerWeights<M> {
  readonly vectors: Readonly<Partial<Record<VectorName, Floats>>>
  readonly attention: Readonly<Record<AttentionMatrix, M>>
  /** Absent where the layer has experts. */
  readonly mlp?: Mlp<M>
  readonly experts?: Experts<M>
}

export interface Experts<M> {
  /** Always float32: a few numbers that decide which of the others count. */
  readonly router_experts_dim: Floats
  readonly mlps: readonly Mlp<M>[]
}

export interface ModelWeights<M, L = LayerWeights<M>, H = M> {
  readonly embedding_vocab_dim: Rows
  readonly layers: readonly L[]
  readonly finalNorm_dim: Floats
  /** One below the other. Made from the embedding where the head is tied. */
  readonly head: readonly H[]
}

/** From the bytes of whole rows of blocks, `out` below each other. */
export type KeepStored<M> = Readonly<Partial<Record<GgmlType, (bytes: Bytes, out: number, width: number) => M>>>

/** How an engine wants to keep what is read: each matrix, each layer of them, and the tables. */
export interface Keeping<M, L = LayerWeights<M>, H = M> {
  /** `fine`: what it is multiplied by should not be rounded, if other such things may be. */
  keep(matrix: { values_out_in: Floats; out: number; in: number; fine: boolean }): M
  /** Matrices that are stored in blocks of these types are taken as they are, with no float32 in between. */
  readonly keepStored?: KeepStored<M> | undefined
  keepLayer(layer: LayerWeights<M>): L | Promise<L>
  keepRows(values_vocab_dim: Floats, dim: number): Rows
  /** Absent where no logits are needed: then no head is read. */
  keepHead?: ((rows_vocab_dim: Rows, dim: number) => readonly H[]) | undefined
}

const EMBEDDING = 'model.embed_tokens.weight'
const HEAD = 'lm_head.weight'

/** Reads all weights of a model, a matrix at a time, so that only one is ever there as float32 and as what is kept. */
export async function loadWeights<M, L, H = M>(
  folder: string,
  shape: ModelShape,
  keeping: Keeping<M, L, H>,
): Promise<ModelWeights<M, L, H>> {
  const { weights } = await locateModel(folder)
  const reader = await WeightReader.open(weights)
  try {
    return await new ModelReader(reader, shape, keeping).read()
  } finally {
    await reader.close()
  }
}

class ModelReader<M, L, H> {
  readonly #reader: WeightReader
  readonly #shape: ModelShape
  readonly #keeping: Keeping<M, L, H>
  readonly #seen = new Set<string>()

  constructor(reader: WeightReader, shape: ModelShape, keeping: Keeping<M, L, H>) {
    this.#reader = reader
    this.#shape = shape
    this.#keeping = keeping
  }

  async read(): Promise<ModelWeights<M, L, H>> {
    const { hidden, vocab, layers } = this.#shape
    const embedding_vocab_dim = this.#keeping.keepRows(await this.#values(EMBEDDING, [vocab, hidden]), hidden)
    const kept: L[] = []
    for (let layer = 0; layer < layers; layer++) kept.push(await this.#keeping.keepLayer(await this.#layer(layer)))
    const finalNorm_dim = await this.#gain('model.norm.weight', hidden)
    const head = this.#keeping.keepHead?.(await this.#headRows(embedding_vocab_dim), hidden) ?? []
    this.#seen.add(HEAD)
    this.#refuseUnread()
    return { embedding_vocab_dim, layers: kept, finalNorm_dim, head }
  }

  async #layer(layer: number): Promise<LayerWeights<M>> {
    const attention = await this.#attention(layer)
    const vectors = await this.#vectors(layer)
    if (this.#shape.layerShapes[layer]!.experts) return { vectors, attention, experts: await this.#experts(layer) }
    return { vectors, attention, mlp: await this.#mlp(layer) }
  }

  async #attention(layer: number): Promise<Record<AttentionMatrix, M>> {
    const { hidden, heads, kvHeads, headDim } = this.#shape
    const names = namesOf(this.#shape, layer)
    const [qRows, kvRows] = [heads * headDim, kvHeads * headDim]
    const [q, k, v] = await this.#stacked(names.qkv, [qRows, kvRows, kvRows], hidden)
    return { q: q!, k: k!, v: v!, o: await this.#matrix(names.o, hidden, qRows, true) }
  }

  async #mlp(layer: number): Promise<Mlp<M>> {
    const { hidden, ffn } = this.#shape
    const names = namesOf(this.#shape, layer)
    const [gate, up] = await this.#stacked(names.gateUp, [ffn, ffn], hidden)
    return { gate: gate!, up: up!, down: await this.#matrix(names.down, hidden, ffn, true) }
  }

  async #experts(layer: number): Promise<Experts<M>> {
    const { hidden, experts } = this.#shape
    const { count, ffn } = experts!
    const names = namesOf(this.#shape, layer)
    const router_experts_dim = await this.#values(`${names.router}.weight`, [count, hidden])
    const mlps: Mlp<M>[] = []
    for (let expert = 0; expert < count; expert++)
      mlps.push({
        gate: await this.#matrix(names.expert(expert, 'gate'), ffn, hidden),
        up: await this.#matrix(names.expert(expert, 'up'), ffn, hidden),
        down: await this.#matrix(names.expert(expert, 'down'), hidden, ffn, true),
      })
    return { router_experts_dim, mlps }
  }

  async #vectors(layer: number): Promise<LayerWeights<M>['vectors']> {
    const { norms, bias } = namesOf(this.#shape, layer)
    const vectors: Partial<Record<VectorName, Floats>> = {}
    for (const [norm, { name, width }] of Object.entries(norms))
      vectors[`${norm as Norm}_norm`] = await this.#gain(`${name}.weight`, width)
    const widths = biasesOf(this.#shape, layer)
    for (const [of, width] of Object.entries(widths) as [Bias, number][])
      vectors[`${of}_bias`] = await this.#values(bias(of), [width])
    return vectors
  }

  /** Matrices of the same width that the checkpoint has below each other in one tensor, or each in its own. */
  async #stacked(names: readonly string[], rows: readonly number[], width: number): Promise<M[]> {
    if (names.length === 1) return this.#cut(names[0]!, rows, width)
    const matrices: M[] = []
    for (const [i, name] of names.entries()) matrices.push(await this.#matrix(name, rows[i]!, width))
    return matrices
  }

  async #matrix(name: string, out: number, width: number, fine = false): Promise<M> {
    const [matrix] = await this.#cut(name, [out], width, fine)
    return matrix!
  }

  /** The rows of one tensor, cut into matrices of so many. */
  async #cut(name: string, rows: readonly number[], width: number, fine = false): Promise<M[]> {
    const weight = `${name}.weight`
    const dims = [rows.reduce((sum, count) => sum + count, 0), width] as const
    const { type, bytes } = this.#reader.stored(weight, dims)
    const keepStored = this.#keeping.keepStored?.[type]
    if (keepStored === undefined) {
      const values = await this.#values(weight, dims)
      return pieces(values, rows).map((values_out_in, i) =>
        this.#keeping.keep({ values_out_in, out: rows[i]!, in: width, fine }),
      )
    }
    const stored = new Uint8Array(bytes)
    await this.#reader.readStored(weight, dims, stored)
    this.#seen.add(weight)
    return pieces(stored, rows).map((piece, i) => keepStored(piece, rows[i]!, width))
  }

  async #gain(name: string, width: number): Promise<Floats> {
    const gain_dim = await this.#values(name, [width])
    return ARCHITECTURES[this.#shape.architecture]?.gainsLessOne ? gain_dim.map((gain) => 1 + gain) : gain_dim
  }

  async #headRows(embedding: Rows): Promise<Rows> {
    const { hidden, vocab, tiedHead } = this.#shape
    if (tiedHead && !this.#reader.has(HEAD)) return embedding
    const own = this.#keeping.keepRows(await this.#values(HEAD, [vocab, hidden]), hidden)
    if (!tiedHead) return own
    if (!sameRows(own, embedding))
      throw new HeadraceError('model_bad_tensor', `${HEAD} differs from ${EMBEDDING}, though config.json ties them`)
    return embedding
  }

  async #values(name: string, dims: readonly number[]): Promise<Floats> {
    this.#reader.check(name, dims)
    const values = new Float32Array(dims.reduce((product, dim) => product * dim, 1))
    await this.#reader.read(name, dims, values)
    this.#seen.add(name)
    return values
  }

  /** A tensor nobody asked for (a bias, a quantisation scale) means another arithmetic: refuse instead of computing without. */
  #refuseUnread(): void {
    for (const name of this.#reader.names()) {
      const derived = name.endsWith('.rotary_emb.inv_freq') // old checkpoints store what the config already says
      if (!derived && !this.#seen.has(name))
        throw new HeadraceError(
          'model_bad_tensor',
          `${name} is in the weights, but no part of a ${this.#shape.architecture} model uses it`,
        )
    }
  }
}

/** An array of rows of one length, cut after so many. */
function pieces<T extends Floats | Bytes>(all: T, rows: readonly number[]): T[] {
  const rowLength = all.length / rows.reduce((sum, count) => sum + count, 0)
  let from = 0
  return rows.map((count) => {
    const piece = all.subarray(from, from + count * rowLength) as T
    from += count * rowLength
    return piece
  })
}
