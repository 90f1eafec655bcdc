import { HeadraceError } from '../../shared/errors.ts'
import { locateModel } from '../../shared/model-folder.ts'
import type { ModelShape } from '../../shared/model-shape.ts'
import { WeightReader } from './weight-reader.ts'

type Floats = Float32Array<ArrayBuffer>

/** Matrices keep the checkpoint's [out, in] order. What one product can serve is stored as one matrix. */
export interface LayerWeights {
  readonly attentionNorm_dim: Floats
  /** The rows of q, then k, then v: [(heads + 2 kvHeads) headDim, hidden]. */
  readonly qkv_out_dim: Floats
  readonly o_dim_in: Floats
  readonly mlpNorm_dim: Floats
  /** The rows of gate, then up: [2 ffn, hidden]. */
  readonly gateUp_out_dim: Floats
  readonly down_dim_ffn: Floats
}

export interface ModelWeights {
  readonly embedding_vocab_dim: Floats
  readonly layers: readonly LayerWeights[]
  readonly finalNorm_dim: Floats
  /** The embedding itself where the head is tied. */
  readonly head_vocab_dim: Floats
}

const EMBEDDING = 'model.embed_tokens.weight'
const HEAD = 'lm_head.weight'

/** Reads all weights of a Llama folder as float32. */
export async function loadWeights(folder: string, shape: ModelShape): Promise<ModelWeights> {
  const { weights } = await locateModel(folder)
  const reader = await WeightReader.open(weights)
  try {
    return await readModel(new Stacker(reader), shape, reader)
  } finally {
    await reader.close()
  }
}

async function readModel(stacker: Stacker, shape: ModelShape, reader: WeightReader): Promise<ModelWeights> {
  const { hidden, vocab } = shape
  const embedding_vocab_dim = await stacker.matrix([[EMBEDDING, vocab]], hidden)
  const layers: LayerWeights[] = []
  for (let layer = 0; layer < shape.layers; layer++) layers.push(await readLayer(stacker, shape, layer))
  const finalNorm_dim = await stacker.vector('model.norm.weight', hidden)
  const ownHead = reader.has(HEAD) || !shape.tiedHead
  const head_vocab_dim = ownHead ? await stacker.matrix([[HEAD, vocab]], hidden) : embedding_vocab_dim
  if (ownHead && shape.tiedHead && !sameBytes(head_vocab_dim, embedding_vocab_dim))
    throw new HeadraceError('model_bad_tensor', `${HEAD} differs from ${EMBEDDING}, though config.json ties them`)
  refuseUnread(stacker, reader)
  return {
    embedding_vocab_dim,
    layers,
    finalNorm_dim,
    head_vocab_dim: shape.tiedHead ? embedding_vocab_dim : head_vocab_dim,
  }
}

async function readLayer(stacker: Stacker, shape: ModelShape, layer: number): Promise<LayerWeights> {
  const { hidden, ffn } = shape
  const q = shape.heads * shape.headDim
  const kv = shape.kvHeads * shape.headDim
  const at = (name: string) => `model.layers.${layer}.${name}.weight`
  return {
    attentionNorm_dim: await stacker.vector(at('input_layernorm'), hidden),
    qkv_out_dim: await stacker.matrix(
      [
        [at('self_attn.q_proj'), q],
        [at('self_attn.k_proj'), kv],
        [at('self_attn.v_proj'), kv],
      ],
      hidden,
    ),
    o_dim_in: await stacker.matrix([[at('self_attn.o_proj'), hidden]], q),
    mlpNorm_dim: await stacker.vector(at('post_attention_layernorm'), hidden),
    gateUp_out_dim: await stacker.matrix(
      [
        [at('mlp.gate_proj'), ffn],
        [at('mlp.up_proj'), ffn],
      ],
      hidden,
    ),
    down_dim_ffn: await stacker.matrix([[at('mlp.down_proj'), hidden]], ffn),
  }
}

/** Reads matrices of equal width below each other into one, and remembers which names were read. */
class Stacker {
  readonly read = new Set<string>()
  readonly #reader: WeightReader

  constructor(reader: WeightReader) {
    this.#reader = reader
  }

  async vector(name: string, length: number): Promise<Floats> {
    this.#reader.check(name, [length])
    const target = new Float32Array(length)
    await this.#reader.read(name, [length], target)
    this.read.add(name)
    return target
  }

  async matrix(parts: readonly (readonly [name: string, rows: number])[], columns: number): Promise<Floats> {
    for (const [name, rows] of parts) this.#reader.check(name, [rows, columns])
    const stacked = new Float32Array(parts.reduce((sum, [, rows]) => sum + rows, 0) * columns)
    let from = 0
    for (const [name, rows] of parts) {
      await this.#reader.read(name, [rows, columns], stacked.subarray(from, from + rows * columns))
      this.read.add(name)
      from += rows * columns
    }
    return stacked
  }
}

/** A tensor nobody asked for (a bias, a quantisation scale) means another arithmetic: refuse instead of computing without. */
function refuseUnread(stacker: Stacker, reader: WeightReader): void {
  for (const name of reader.names()) {
    const derived = name.endsWith('.rotary_emb.inv_freq') // old checkpoints store what the config already says
    if (!derived && !stacker.read.has(name))
      throw new HeadraceError('model_bad_tensor', `${name} is in the weights, but no part of a Llama model uses it`)
  }
}

const sameBytes = (a: Floats, b: Floats) => Buffer.from(a.buffer).equals(Buffer.from(b.buffer))
