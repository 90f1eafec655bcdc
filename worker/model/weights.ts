import { HeadraceError } from '../../shared/errors.ts'
import { locateModel } from '../../shared/model-folder.ts'
import type { ModelShape } from '../../shared/model-shape.ts'
import { type Rows, sameRows } from './rows.ts'
import { WeightReader } from './weight-reader.ts'

type Floats = Float32Array<ArrayBuffer>

/** One decoder layer; `M` is how a matrix is kept. */
export interface LayerWeights<M> {
  readonly attentionNorm_dim: Floats
  readonly q: M
  readonly k: M
  readonly v: M
  readonly o: M
  readonly mlpNorm_dim: Floats
  readonly gate: M
  readonly up: M
  readonly down: M
}

export interface ModelWeights<M, L = LayerWeights<M>, H = M> {
  readonly embedding_vocab_dim: Rows
  readonly layers: readonly L[]
  readonly finalNorm_dim: Floats
  /** One below the other. Made from the embedding where the head is tied. */
  readonly head: readonly H[]
}

/** How an engine wants to keep what is read: each matrix, each layer of them, and the tables. */
export interface Keeping<M, L = LayerWeights<M>, H = M> {
  keep(matrix: { values_out_in: Floats; out: number; in: number }): M
  keepLayer(layer: LayerWeights<M>): L | Promise<L>
  keepRows(values_vocab_dim: Floats, dim: number): Rows
  /** Absent where no logits are needed: then no head is read. */
  keepHead?: ((rows_vocab_dim: Rows, dim: number) => readonly H[]) | undefined
}

const EMBEDDING = 'model.embed_tokens.weight'
const HEAD = 'lm_head.weight'

/** Reads all weights of a Llama folder, a matrix at a time, so that only one is ever there as float32 and as what is kept. */
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
    const finalNorm_dim = await this.#values('model.norm.weight', [hidden])
    const head = this.#keeping.keepHead?.(await this.#headRows(embedding_vocab_dim), hidden) ?? []
    this.#seen.add(HEAD)
    this.#refuseUnread()
    return { embedding_vocab_dim, layers: kept, finalNorm_dim, head }
  }

  async #layer(layer: number): Promise<LayerWeights<M>> {
    const { hidden, ffn, heads, kvHeads, headDim } = this.#shape
    const at = (name: string) => `model.layers.${layer}.${name}.weight`
    const matrix = async (name: string, out: number, width: number): Promise<M> =>
      this.#keeping.keep({ values_out_in: await this.#values(at(name), [out, width]), out, in: width })
    return {
      attentionNorm_dim: await this.#values(at('input_layernorm'), [hidden]),
      q: await matrix('self_attn.q_proj', heads * headDim, hidden),
      k: await matrix('self_attn.k_proj', kvHeads * headDim, hidden),
      v: await matrix('self_attn.v_proj', kvHeads * headDim, hidden),
      o: await matrix('self_attn.o_proj', hidden, heads * headDim),
      mlpNorm_dim: await this.#values(at('post_attention_layernorm'), [hidden]),
      gate: await matrix('mlp.gate_proj', ffn, hidden),
      up: await matrix('mlp.up_proj', ffn, hidden),
      down: await matrix('mlp.down_proj', hidden, ffn),
    }
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
        throw new HeadraceError('model_bad_tensor', `${name} is in the weights, but no part of a Llama model uses it`)
    }
  }
}
