import type { ModelShape } from '../../../shared/model-shape.ts'
import { inverseFrequencies } from '../../../worker/model/rope-table.ts'
import type { MetadataValue } from '../../support/gguf/fields.ts'
import { ALIGNMENT, ggufHeader } from '../../support/gguf/header.ts'
import { type Encoding, encodedBytes } from './encoding.ts'
import { FileWriter } from './file-writer.ts'
import { RandomWeights } from './random-weights.ts'
import { ggufRow, type TensorSpec, tensorSpecs } from './tensors.ts'
import { END_TOKEN, tokenTexts } from './tokenizer.ts'
import { writeTensor } from './write-tensor.ts'

/** Norms are float32 whatever the type of the matrices, as converters write them; the embedding has the matrices' type. */
export type GgufType = Exclude<Encoding, 'BF16'>

/** `general.file_type` of a file that is mostly of it. */
const FILE_TYPES = { F32: 0, Q8_0: 7 } as const

export async function writeGguf(path: string, shape: ModelShape, seed: number, type: GgufType): Promise<void> {
  const specs = tensorSpecs(shape)
  const weights = new RandomWeights(seed)
  const scaling = ropeFactors(shape)
  const writer = await FileWriter.create(path)
  try {
    await writer.append(head(shape, specs, type, scaling))
    await writer.pad(ALIGNMENT)
    if (scaling !== undefined) await writer.append(new Uint8Array(scaling.buffer))
    for (const spec of specs) {
      await writer.pad(ALIGNMENT)
      const { rotatedHeadDim: headDim } = spec
      const rowAt = headDim === undefined ? undefined : (row: number) => ggufRow(row, headDim)
      await writeTensor(writer, weights, spec, typeOf(spec, type), rowAt)
    }
    await writer.pad(ALIGNMENT)
  } finally {
    await writer.close()
  }
}

const typeOf = ({ kind }: TensorSpec, type: GgufType): GgufType => (kind === 'norm' ? 'F32' : type)

/** How many times slower each rotated pair turns than without scaling; absent where nothing is scaled. */
function ropeFactors({ layerShapes, headDim }: ModelShape): Float32Array | undefined {
  const rope = layerShapes[0]!.rope!
  if (rope.kind === 'default') return undefined
  const scaled = inverseFrequencies(rope, headDim)
  return inverseFrequencies({ kind: 'default', theta: rope.theta }, headDim).map((plain, i) => plain / scaled[i]!)
}

function head(shape: ModelShape, specs: readonly TensorSpec[], type: GgufType, scaling?: Float32Array): Uint8Array {
  const tensors = [
    ...(scaling === undefined ? [] : [{ name: 'rope_freqs.weight', dims: [scaling.length], type: 'F32' as const }]),
    ...specs.map((spec) => ({
      name: spec.gguf,
      dims: spec.kind === 'norm' ? [spec.columns] : [spec.columns, spec.rows],
      type: typeOf(spec, type),
    })),
  ]
  const elements = (dims: readonly number[]): number => dims.reduce((product, dim) => product * dim, 1)
  return ggufHeader(
    metadataOf(shape, type),
    tensors.map((tensor) => ({ ...tensor, bytes: encodedBytes(tensor.type, elements(tensor.dims)) })),
  )
}

/** Kinds of a token, as `llama_token_type` numbers them. */
const NORMAL_TOKEN = 1
const CONTROL_TOKEN = 3

function metadataOf(shape: ModelShape, type: GgufType): [string, MetadataValue][] {
  const texts = tokenTexts(shape.vocab)
  return [
    ['general.architecture', { text: 'llama' }],
    ['general.name', { text: 'random weights' }],
    ['general.file_type', { u32: FILE_TYPES[type] }],
    ['llama.vocab_size', { u32: shape.vocab }],
    ['llama.context_length', { u32: shape.contextLength }],
    ['llama.embedding_length', { u32: shape.hidden }],
    ['llama.block_count', { u32: shape.layers }],
    ['llama.feed_forward_length', { u32: shape.ffn }],
    ['llama.attention.head_count', { u32: shape.heads }],
    ['llama.attention.head_count_kv', { u32: shape.kvHeads }],
    ['llama.attention.key_length', { u32: shape.headDim }],
    ['llama.attention.value_length', { u32: shape.headDim }],
    ['llama.attention.layer_norm_rms_epsilon', { f32: shape.normEpsilon }],
    ['llama.rope.dimension_count', { u32: shape.headDim }],
    ['llama.rope.freq_base', { f32: shape.layerShapes[0]!.rope!.theta }],
    ['tokenizer.ggml.model', { text: 'gpt2' }],
    ['tokenizer.ggml.pre', { text: 'llama-bpe' }],
    ['tokenizer.ggml.tokens', { texts }],
    ['tokenizer.ggml.token_type', { i32s: texts.map((_, id) => (id === END_TOKEN ? CONTROL_TOKEN : NORMAL_TOKEN)) }],
    ['tokenizer.ggml.merges', { texts: [] }],
    ['tokenizer.ggml.bos_token_id', { u32: END_TOKEN }],
    ['tokenizer.ggml.eos_token_id', { u32: END_TOKEN }],
  ]
}
