import { mkdtemp, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { seededRandom } from './random.ts'

export interface TinyModelOptions {
  readonly seed: number
  readonly layers: number
  readonly hidden: number
  readonly heads: number
  readonly kvHeads: number
  readonly headDim: number
  readonly ffn: number
  readonly vocab: number
  readonly contextLength: number
  readonly tied: boolean
  readonly dtype: 'F32' | 'F16' | 'BF16'
  /** 1 writes `model.safetensors`, more write shards and an index. */
  readonly shards: number
  /** Spread into `config.json`: the rope of either style, or what a test wants to break. */
  readonly config: Readonly<Record<string, unknown>>
}

const DEFAULTS: TinyModelOptions = {
  seed: 1,
  layers: 2,
  hidden: 32,
  heads: 4,
  kvHeads: 2,
  headDim: 8,
  ffn: 48,
  vocab: 64,
  contextLength: 2048,
  tied: true,
  dtype: 'F32',
  shards: 1,
  config: { rope_theta: 10_000 },
}

export interface TinyModel {
  readonly folder: string
  remove(): Promise<void>
}

/** A Llama folder with seeded random weights, in the temporary directory. Its numbers are spread so that a forgotten term shows. */
export async function createTinyModel(options: Partial<TinyModelOptions> = {}): Promise<TinyModel> {
  const model = { ...DEFAULTS, ...options }
  const folder = await mkdtemp(join(tmpdir(), 'headrace-tiny-'))
  await writeFile(join(folder, 'config.json'), JSON.stringify(configOf(model)))
  const tensors = tensorsOf(model)
  if (model.shards === 1) await writeFile(join(folder, 'model.safetensors'), safetensors(tensors, model.dtype))
  else await writeShards(folder, tensors, model)
  return { folder, remove: () => rm(folder, { recursive: true }) }
}

export interface NamedTensor {
  readonly name: string
  readonly dims: readonly number[]
  readonly values: readonly number[]
}

/** The bytes of a safetensors file. */
export function safetensors(tensors: readonly NamedTensor[], dtype: TinyModelOptions['dtype']): Uint8Array {
  const header: Record<string, unknown> = { __metadata__: { format: 'pt' } }
  const parts = tensors.map(({ values }) => encode(values, dtype))
  let offset = 0
  tensors.forEach(({ name, dims }, i) => {
    const end = offset + parts[i]!.length
    header[name] = { dtype, shape: dims, data_offsets: [offset, end] }
    offset = end
  })
  return withHeader(JSON.stringify(header), Buffer.concat(parts))
}

/** Length, header, data: whatever the header says. */
export function withHeader(header: string, data: Uint8Array): Uint8Array {
  const json = Buffer.from(header)
  const length = Buffer.alloc(8)
  length.writeBigUInt64LE(BigInt(json.length))
  return Buffer.concat([length, json, data])
}

function configOf(model: TinyModelOptions): object {
  return {
    architectures: ['LlamaForCausalLM'],
    model_type: 'llama',
    hidden_act: 'silu',
    hidden_size: model.hidden,
    intermediate_size: model.ffn,
    num_hidden_layers: model.layers,
    num_attention_heads: model.heads,
    num_key_value_heads: model.kvHeads,
    head_dim: model.headDim,
    vocab_size: model.vocab,
    max_position_embeddings: model.contextLength,
    rms_norm_eps: 1e-5,
    tie_word_embeddings: model.tied,
    eos_token_id: 0,
    ...model.config,
  }
}

/** The tensors that `createTinyModel` writes, before they are rounded to its dtype. */
export function tinyTensors(options: Partial<TinyModelOptions> = {}): NamedTensor[] {
  return tensorsOf({ ...DEFAULTS, ...options })
}

function tensorsOf({
  seed,
  layers,
  hidden,
  heads,
  kvHeads,
  headDim,
  ffn,
  vocab,
  tied,
}: TinyModelOptions): NamedTensor[] {
  const random = seededRandom(seed)
  const spread = (count: number, middle: number, width: number) =>
    Array.from({ length: count }, () => middle + (random() * 2 - 1) * width)
  const matrix = (name: string, rows: number, columns: number): NamedTensor => ({
    name,
    dims: [rows, columns],
    values: spread(rows * columns, 0, 3 / Math.sqrt(columns)),
  })
  const norm = (name: string): NamedTensor => ({ name, dims: [hidden], values: spread(hidden, 1, 0.5) })
  const layer = (i: number) => {
    const at = (name: string) => `model.layers.${i}.${name}.weight`
    return [
      norm(at('input_layernorm')),
      matrix(at('self_attn.q_proj'), heads * headDim, hidden),
      matrix(at('self_attn.k_proj'), kvHeads * headDim, hidden),
      matrix(at('self_attn.v_proj'), kvHeads * headDim, hidden),
      matrix(at('self_attn.o_proj'), hidden, heads * headDim),
      norm(at('post_attention_layernorm')),
      matrix(at('mlp.gate_proj'), ffn, hidden),
      matrix(at('mlp.up_proj'), ffn, hidden),
      matrix(at('mlp.down_proj'), hidden, ffn),
    ]
  }
  return [
    matrix('model.embed_tokens.weight', vocab, hidden),
    ...Array.from({ length: layers }, (_, i) => layer(i)).flat(),
    norm('model.norm.weight'),
    ...(tied ? [] : [matrix('lm_head.weight', vocab, hidden)]),
  ]
}

async function writeShards(folder: string, tensors: readonly NamedTensor[], model: TinyModelOptions): Promise<void> {
  const weight_map: Record<string, string> = {}
  const perShard = Math.ceil(tensors.length / model.shards)
  for (let shard = 0; shard < model.shards; shard++) {
    const file = `model-${String(shard + 1).padStart(5, '0')}-of-${String(model.shards).padStart(5, '0')}.safetensors`
    const own = tensors.slice(shard * perShard, (shard + 1) * perShard)
    for (const { name } of own) weight_map[name] = file
    await writeFile(join(folder, file), safetensors(own, model.dtype))
  }
  await writeFile(join(folder, 'model.safetensors.index.json'), JSON.stringify({ metadata: {}, weight_map }))
}

function encode(values: readonly number[], dtype: TinyModelOptions['dtype']): Uint8Array {
  const singles = Float32Array.from(values)
  if (dtype === 'F32') return new Uint8Array(singles.buffer)
  const words = new Uint32Array(singles.buffer)
  const halves = Uint16Array.from(dtype === 'BF16' ? words.map((word) => word >>> 16) : values.map(toHalf))
  return new Uint8Array(halves.buffer)
}

/** IEEE half precision bits of a number in its range; a carry out of the fraction rightly raises the exponent. */
function toHalf(value: number): number {
  const size = Math.abs(value)
  const exponent = Math.max(-14, Math.floor(Math.log2(size || 1e-30)))
  const fraction = Math.round(size / 2 ** (exponent - 10))
  const bits = size < 2 ** -14 ? fraction : ((exponent + 14) << 10) + fraction
  return bits | (value < 0 ? 0x8000 : 0)
}
