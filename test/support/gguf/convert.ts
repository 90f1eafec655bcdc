import { readFileSync } from 'node:fs'
import { readFile, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { locateModel } from '../../../shared/model-folder.ts'
import type { MetadataValue } from './fields.ts'
import type { QuantisedType } from './quantise.ts'
import { type GgufTensorToWrite, ggufBytes } from './write.ts'

/**
 * A Hugging Face folder as llama.cpp's converter would write it (conversion/*.py): its names, its permutation, its norms,
 * its stacked experts. Written from that side and without the reader's tables, so that the two can disagree.
 */
export interface ConvertOptions {
  readonly type?: QuantisedType
  /** More than one: `<path>-00001-of-0000N.gguf` and so on, of equally many tensors. `path` then has no extension. */
  readonly parts?: number
}

/** Writes the model, and returns the path of its first or only file. */
export async function convertFolder(folder: string, path: string, options: ConvertOptions = {}): Promise<string> {
  const config = JSON.parse(readFileSync(join(folder, 'config.json'), 'utf8')) as Config
  const tensors = [...extraTensors(config), ...(await convertedTensors(folder, config))]
  const metadata = [...hyperParameters(config), ...(await tokenizerMetadata(folder, config))]
  const { type = 'F32', parts = 1 } = options
  if (parts === 1) {
    await writeFile(path, ggufBytes(metadata, tensors, type))
    return path
  }
  const each = Math.ceil(tensors.length / parts)
  const nameOf = (part: number) =>
    `${path}-${String(part + 1).padStart(5, '0')}-of-${String(parts).padStart(5, '0')}.gguf`
  for (let part = 0; part < parts; part++) {
    const split: [string, MetadataValue][] = [
      ['split.no', { u16: part }],
      ['split.count', { u16: parts }],
    ]
    const own = tensors.slice(part * each, (part + 1) * each)
    await writeFile(nameOf(part), ggufBytes(part === 0 ? [...metadata, ...split] : split, own, type))
  }
  return nameOf(0)
}

// biome-ignore lint/suspicious/noExplicitAny: any config.json
type Config = Record<string, any>

const ARCHITECTURES: Readonly<Record<string, string>> = {
  llama: 'llama',
  mistral: 'llama',
  mixtral: 'llama',
  qwen2: 'qwen2',
  qwen3: 'qwen3',
  qwen3_moe: 'qwen3moe',
  gemma: 'gemma',
  gemma2: 'gemma2',
  gemma3_text: 'gemma3',
  phi3: 'phi3',
  olmo2: 'olmo2',
  granite: 'granite',
  smollm3: 'smollm3',
}

const architectureOf = (config: Config): string => ARCHITECTURES[config['model_type']]!

function hyperParameters(config: Config): [string, MetadataValue][] {
  const architecture = architectureOf(config)
  const rope = ropeOf(config)
  const u32 = (value: number): MetadataValue => ({ u32: value })
  const f32 = (value: number): MetadataValue => ({ f32: value })
  const given = (key: string, value: number | null | undefined, kind: (value: number) => MetadataValue) =>
    value === null || value === undefined ? [] : [[`${architecture}.${key}`, kind(value)] as [string, MetadataValue]]
  return [
    ['general.architecture', { text: architecture }],
    ['general.name', { text: 'converted' }],
    ...given('block_count', config['num_hidden_layers'], u32),
    ...given('context_length', config['max_position_embeddings'], u32),
    ...given('embedding_length', config['hidden_size'], u32),
    ...given('feed_forward_length', config['intermediate_size'], u32),
    ...given('attention.head_count', config['num_attention_heads'], u32),
    ...given('attention.head_count_kv', config['num_key_value_heads'], u32),
    ...given('attention.key_length', config['head_dim'], u32),
    ...given('attention.value_length', config['head_dim'], u32),
    ...given('attention.layer_norm_rms_epsilon', config['rms_norm_eps'], f32),
    ...given('attention.sliding_window', config['sliding_window'] ?? (architecture === 'phi3' ? 0 : null), u32),
    ...given('rope.freq_base', rope['rope_theta'], f32),
    ...given('rope.freq_base_swa', config['rope_parameters']?.sliding_attention?.rope_theta, f32),
    ...given('expert_count', config['num_local_experts'] ?? config['num_experts'], u32),
    ...given('expert_used_count', config['num_experts_per_tok'], u32),
    ...given('expert_feed_forward_length', config['moe_intermediate_size'], u32),
    ...given('attn_logit_softcapping', config['attn_logit_softcapping'], f32),
    ...given('final_logit_softcapping', config['final_logit_softcapping'], f32),
    ...given('attention.scale', config['attention_multiplier'], f32),
    ...given('embedding_scale', config['embedding_multiplier'], f32),
    ...given('residual_scale', config['residual_multiplier'], f32),
    ...given('logit_scale', config['logits_scaling'], f32),
    ...scaling(architecture, config),
    ...(architecture === 'qwen2' || architecture === 'qwen3'
      ? []
      : given('rope.dimension_count', rotaryDim(config), u32)),
  ]
}

const headDim = (config: Config): number => config['head_dim'] ?? config['hidden_size'] / config['num_attention_heads']

function ropeOf(config: Config): Config {
  const rope = config['rope_parameters'] ?? config['rope_scaling'] ?? {}
  const full = rope.full_attention ?? rope
  return { rope_theta: config['rope_theta'] ?? 10_000, ...full, rope_type: full.rope_type ?? full.type }
}

const rotaryDim = (config: Config): number =>
  (ropeOf(config)['partial_rotary_factor'] ?? config['partial_rotary_factor'] ?? 1) * headDim(config)

/** LongRoPE and Llama 3's stand in tensors. */
function scaling(architecture: string, config: Config): [string, MetadataValue][] {
  const rope = ropeOf(config)
  const key = (name: string) => `${architecture}.rope.scaling.${name}`
  const original = rope['original_max_position_embeddings'] ?? config['original_max_position_embeddings']
  const context: [string, MetadataValue][] =
    original === undefined ? [] : [[key('original_context_length'), { u32: original }]]
  switch (rope['rope_type']) {
    case 'linear':
      return [
        [key('type'), { text: 'linear' }],
        [key('factor'), { f32: rope['factor'] }],
      ]
    case 'yarn':
      return [
        [key('type'), { text: 'yarn' }],
        [key('factor'), { f32: rope['factor'] }],
        ...context,
        ...(rope['attention_factor'] === undefined
          ? []
          : [[key('yarn_attn_factor'), { f32: rope['attention_factor'] }] as [string, MetadataValue]]),
      ]
    default:
      return architecture === 'phi3' ? context : []
  }
}

function extraTensors(config: Config): GgufTensorToWrite[] {
  const rope = ropeOf(config)
  if (rope['rope_type'] === 'longrope')
    return (['long', 'short'] as const).map((which) => {
      const values = Float32Array.from(rope[`${which}_factor`] as number[])
      return { name: `rope_factors_${which}.weight`, dims: [values.length], values }
    })
  if (rope['rope_type'] !== 'llama3') return []
  const { factor, low_freq_factor: low, high_freq_factor: high, original_max_position_embeddings: context } = rope
  const factors = Float32Array.from({ length: headDim(config) / 2 }, (_, i) => {
    const wavelength = 2 * Math.PI * rope['rope_theta'] ** ((2 * i) / headDim(config))
    if (wavelength < context / high) return 1
    if (wavelength > context / low) return factor
    const smooth = (context / wavelength - low) / (high - low)
    return 1 / ((1 - smooth) / factor + smooth)
  })
  return [{ name: 'rope_freqs.weight', dims: [factors.length], values: factors }]
}

/** In this order, the first that fits. */
const NAMES: readonly [RegExp, string][] = [
  [/^model\.embed_tokens\./, 'token_embd.'],
  [/^model\.norm\./, 'output_norm.'],
  [/^lm_head\./, 'output.'],
  [/^model\.layers\.(\d+)\.input_layernorm\./, 'blk.$1.attn_norm.'],
  [/^model\.layers\.(\d+)\.self_attn\.([qkv])_proj\./, 'blk.$1.attn_$2.'],
  [/^model\.layers\.(\d+)\.self_attn\.qkv_proj\./, 'blk.$1.attn_qkv.'],
  [/^model\.layers\.(\d+)\.self_attn\.o_proj\./, 'blk.$1.attn_output.'],
  [/^model\.layers\.(\d+)\.self_attn\.([qk])_norm\./, 'blk.$1.attn_$2_norm.'],
  [/^model\.layers\.(\d+)\.pre_feedforward_layernorm\./, 'blk.$1.ffn_norm.'],
  [/^model\.layers\.(\d+)\.post_feedforward_layernorm\./, 'blk.$1.post_ffw_norm.'],
  [/^model\.layers\.(\d+)\.mlp\.gate_up_proj\./, 'blk.$1.ffn_up.'],
  [/^model\.layers\.(\d+)\.mlp\.(gate|up|down)_proj\./, 'blk.$1.ffn_$2.'],
  [/^model\.layers\.(\d+)\.(?:mlp|block_sparse_moe)\.gate\./, 'blk.$1.ffn_gate_inp.'],
]

async function convertedTensors(folder: string, config: Config): Promise<GgufTensorToWrite[]> {
  const sandwich = ['gemma2', 'gemma3', 'olmo2'].includes(architectureOf(config))
  const afterAttention = sandwich ? 'blk.$1.post_attention_norm.' : 'blk.$1.ffn_norm.'
  const names: [RegExp, string][] = [[/^model\.layers\.(\d+)\.post_attention_layernorm\./, afterAttention], ...NAMES]
  const experts = new Map<string, GgufTensorToWrite[]>()
  const tensors: GgufTensorToWrite[] = []
  for (const tensor of await safetensorsOf(folder)) {
    const expert = /^(model\.layers\.\d+)\.(?:mlp|block_sparse_moe)\.experts\.(\d+)\.(\w+)\.weight$/.exec(tensor.name)
    if (expert) {
      const key = `${expert[1]!.replace('model.layers', 'blk')}.ffn_${EXPERTS[expert[3]!]}_exps.weight`
      const stack = experts.get(key) ?? []
      stack[Number(expert[2])] = tensor
      experts.set(key, stack)
      continue
    }
    const rule = names.find(([pattern]) => pattern.test(tensor.name))
    if (rule === undefined) throw new Error(`${tensor.name} has no name in GGUF`)
    tensors.push(converted({ ...tensor, name: tensor.name.replace(rule[0], rule[1]) }, config))
  }
  for (const [name, stack] of experts) {
    const values = Float32Array.from(stack.flatMap((expert) => [...expert.values]))
    tensors.push({ name, dims: [stack.length, ...stack[0]!.dims], values })
  }
  return tensors
}

const EXPERTS: Readonly<Record<string, string>> = {
  w1: 'gate',
  w2: 'down',
  w3: 'up',
  gate_proj: 'gate',
  up_proj: 'up',
  down_proj: 'down',
}

function converted(tensor: GgufTensorToWrite, config: Config): GgufTensorToWrite {
  const architecture = architectureOf(config)
  const { name, dims, values } = tensor
  if (architecture.startsWith('gemma') && name.endsWith('norm.weight'))
    return { name, dims, values: values.map((x) => x + 1) }
  const heads = /attn_q\./.test(name) ? config['num_attention_heads'] : config['num_key_value_heads']
  if (['llama', 'granite', 'smollm3'].includes(architecture) && /attn_[qk]\./.test(name))
    return { name, dims, values: permuted(values, heads, dims[0]!) }
  return tensor
}

/** `reshape(heads, 2, half, columns)`, and the middle axes swapped. */
function permuted(values: Float32Array, heads: number, rows: number): Float32Array {
  const columns = values.length / rows
  const half = rows / heads / 2
  const out: Float32Array = new Float32Array(values.length)
  let to = 0
  for (let head = 0; head < heads; head++)
    for (let pair = 0; pair < half; pair++)
      for (let side = 0; side < 2; side++) {
        const from = ((head * 2 + side) * half + pair) * columns
        out.set(values.subarray(from, from + columns), to)
        to += columns
      }
  return out
}

async function safetensorsOf(folder: string): Promise<GgufTensorToWrite[]> {
  const tensors: GgufTensorToWrite[] = []
  for (const path of (await locateModel(folder)).weights) {
    const file = await readFile(path)
    const data = 8 + Number(file.readBigUInt64LE())
    const header = JSON.parse(file.toString('utf8', 8, data)) as Record<string, Record<string, unknown>>
    for (const [name, { dtype, shape, data_offsets }] of Object.entries(header)) {
      if (name === '__metadata__') continue
      const [start, end] = data_offsets as [number, number]
      const bytes = Uint8Array.from(file.subarray(data + start, data + end))
      if (dtype !== 'F32' && dtype !== 'BF16') throw new Error(`${name} is ${dtype}`)
      const values: Float32Array =
        dtype === 'F32'
          ? new Float32Array(bytes.buffer)
          : new Float32Array(Uint32Array.from(new Uint16Array(bytes.buffer), (bits) => bits << 16).buffer)
      tensors.push({ name, dims: shape as number[], values })
    }
  }
  return tensors
}

const KIND = { normal: 1, control: 3, userDefined: 4, unused: 5 } as const

/** Byte-level BPE only; without a `tokenizer.json` the end token alone. */
async function tokenizerMetadata(folder: string, config: Config): Promise<[string, MetadataValue][]> {
  const eos = [config['eos_token_id']].flat()[0] as number
  const ends: [string, MetadataValue][] = [['tokenizer.ggml.eos_token_id', { u32: eos }]]
  const { tokenizer } = await locateModel(folder)
  if (tokenizer === undefined) return ends
  const json = JSON.parse(await readFile(tokenizer, 'utf8')) as Config
  const { vocab, merges, ignore_merges } = json['model'] as {
    vocab: Record<string, number>
    merges: (string | string[])[]
    ignore_merges?: boolean
  }
  const texts = Array.from({ length: config['vocab_size'] as number }, (_, id) => `[PAD${id}]`)
  const kinds: number[] = texts.map(() => KIND.unused)
  for (const [text, id] of Object.entries(vocab)) [texts[id], kinds[id]] = [text, KIND.normal]
  for (const { id, content, special } of json['added_tokens'])
    [texts[id], kinds[id]] = [content, special ? KIND.control : KIND.userDefined]
  const template = await readFile(join(folder, 'chat_template.jinja'), 'utf8').catch(() => undefined)
  return [
    ['tokenizer.ggml.model', { text: 'gpt2' }],
    ['tokenizer.ggml.pre', { text: ignore_merges === true ? 'llama-bpe' : 'smaug-bpe' }],
    ['tokenizer.ggml.tokens', { texts }],
    ['tokenizer.ggml.token_type', { i32s: kinds }],
    ['tokenizer.ggml.merges', { texts: merges.map((merge) => (Array.isArray(merge) ? merge.join(' ') : merge)) }],
    ['tokenizer.ggml.bos_token_id', { u32: config['bos_token_id'] }],
    ...(config['pad_token_id'] == null
      ? []
      : [['tokenizer.ggml.padding_token_id', { u32: config['pad_token_id'] }] as [string, MetadataValue]]),
    ...(template === undefined ? [] : [['tokenizer.chat_template', { text: template }] as [string, MetadataValue]]),
    ...ends,
  ]
}
