import { mkdir, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import type { ModelShape, RopeShape } from '../../../shared/model-shape.ts'
import { encodedBytes } from './encoding.ts'
import { FileWriter } from './file-writer.ts'
import { RandomWeights } from './random-weights.ts'
import { type TensorSpec, tensorSpecs } from './tensors.ts'
import { END_TOKEN, tokenizerConfigJson, tokenizerJson } from './tokenizer.ts'
import { writeTensor } from './write-tensor.ts'

export type Dtype = 'BF16' | 'F32'

/** Writes a model as a Hugging Face folder. */
export async function writeFolder(folder: string, shape: ModelShape, seed: number, dtype: Dtype): Promise<void> {
  await mkdir(folder, { recursive: true })
  await writeFile(join(folder, 'config.json'), JSON.stringify(configOf(shape, dtype)))
  await writeFile(join(folder, 'tokenizer.json'), JSON.stringify(tokenizerJson(shape.vocab)))
  await writeFile(join(folder, 'tokenizer_config.json'), JSON.stringify(tokenizerConfigJson(shape.contextLength)))
  const specs = tensorSpecs(shape)
  const weights = new RandomWeights(seed)
  const writer = await FileWriter.create(join(folder, 'model.safetensors'))
  try {
    await writer.append(header(specs, dtype))
    for (const spec of specs) await writeTensor(writer, weights, spec, dtype)
  } finally {
    await writer.close()
  }
}

function header(specs: readonly TensorSpec[], dtype: Dtype): Uint8Array {
  const entries: Record<string, unknown> = { __metadata__: { format: 'pt' } }
  let offset = 0
  for (const { huggingFace, rows, columns, kind } of specs) {
    const end = offset + encodedBytes(dtype, rows * columns)
    const shape = kind === 'norm' ? [columns] : [rows, columns]
    entries[huggingFace] = { dtype, shape, data_offsets: [offset, end] }
    offset = end
  }
  const text = JSON.stringify(entries)
  const json = Buffer.from(text.padEnd(Math.ceil(text.length / 8) * 8)) // tensors then lie aligned
  const length = Buffer.alloc(8)
  length.writeBigUInt64LE(BigInt(json.length))
  return Buffer.concat([length, json])
}

function configOf(shape: ModelShape, dtype: Dtype): object {
  return {
    architectures: ['LlamaForCausalLM'],
    model_type: 'llama',
    hidden_act: 'silu',
    hidden_size: shape.hidden,
    intermediate_size: shape.ffn,
    num_hidden_layers: shape.layers,
    num_attention_heads: shape.heads,
    num_key_value_heads: shape.kvHeads,
    head_dim: shape.headDim,
    vocab_size: shape.vocab,
    max_position_embeddings: shape.contextLength,
    rms_norm_eps: shape.normEpsilon,
    tie_word_embeddings: shape.tiedHead,
    dtype: dtype === 'BF16' ? 'bfloat16' : 'float32',
    eos_token_id: END_TOKEN,
    rope_parameters: ropeOf(shape.layerShapes[0]!.rope!),
  }
}

function ropeOf(rope: RopeShape): object {
  if (rope.kind !== 'llama3')
    return { ...rope, kind: undefined, rope_type: rope.kind, rope_theta: rope.theta, theta: undefined }
  return {
    rope_type: 'llama3',
    rope_theta: rope.theta,
    factor: rope.factor,
    low_freq_factor: rope.lowFreqFactor,
    high_freq_factor: rope.highFreqFactor,
    original_max_position_embeddings: rope.originalContextLength,
  }
}
