import { malformed } from '../../shared/gguf/cursor.ts'
import { GGML_TYPES } from '../../shared/gguf/ggml-types.ts'
import type { GgufHeader, GgufTensor } from '../../shared/gguf/header.ts'
import { Metadata } from '../../shared/gguf/metadata.ts'
import type { StoredTensor } from './stored-tensor.ts'

/** What a reader must know of the model to find Hugging Face's tensors in those of llama.cpp's converter. */
export interface GgufNaming {
  readonly architecture: string
  readonly heads: number
  readonly kvHeads: number
  readonly headDim: number
}

/** The converter's classes that are a `LlamaModel` permute q and k (conversion/llama.py, `undo_permute`). */
const PAIRED = new Set(['llama', 'granite', 'smollm3'])
/** Those that add one to what ends in `norm.weight` (conversion/gemma.py). */
const NORMS_PLUS_ONE = new Set(['gemma', 'gemma2', 'gemma3'])
/** Those whose fused projections Hugging Face has fused too. */
const FUSED = new Set(['phi3'])

const WHOLE: Readonly<Record<string, string>> = {
  token_embd: 'model.embed_tokens',
  output_norm: 'model.norm',
  output: 'lm_head',
}

const LAYER: Readonly<Record<string, string>> = {
  attn_norm: 'input_layernorm',
  attn_q: 'self_attn.q_proj',
  attn_k: 'self_attn.k_proj',
  attn_v: 'self_attn.v_proj',
  attn_qkv: 'self_attn.qkv_proj',
  attn_output: 'self_attn.o_proj',
  attn_q_norm: 'self_attn.q_norm',
  attn_k_norm: 'self_attn.k_norm',
  post_attention_norm: 'post_attention_layernorm',
  ffn_norm: 'post_attention_layernorm',
  post_ffw_norm: 'post_feedforward_layernorm',
  ffn_gate: 'mlp.gate_proj',
  ffn_up: 'mlp.up_proj',
  ffn_down: 'mlp.down_proj',
  ffn_gate_inp: 'mlp.gate',
}

/** Where an architecture differs: Gemma has a norm on both sides of its parts, Phi fuses, Mixtral has its own words. */
const OWN: Readonly<Record<string, Readonly<Record<string, string>>>> = {
  gemma2: { ffn_norm: 'pre_feedforward_layernorm' },
  gemma3: { ffn_norm: 'pre_feedforward_layernorm' },
  phi3: { ffn_up: 'mlp.gate_up_proj' },
  llama: { ffn_gate_inp: 'block_sparse_moe.gate' },
}

/** Hugging Face's expert matrices by the converter's. */
const EXPERTS: Readonly<Record<string, string>> = { gate: 'gate_proj', up: 'up_proj', down: 'down_proj' }
const MIXTRAL_EXPERTS: Readonly<Record<string, string>> = { gate: 'w1', up: 'w3', down: 'w2' }

/** What only says again how positions are rotated: the configuration has it. */
const DERIVED = /^rope_(freqs|factors_long|factors_short)\.weight$/

export function namingOf({ metadata, file }: GgufHeader): GgufNaming {
  const values = new Metadata(metadata, file)
  const architecture = values.text('general.architecture') ?? ''
  const size = (key: string) => values.number(`${architecture}.${key}`)
  const heads = values.neededNumber(`${architecture}.attention.head_count`)
  const kvHeads = size('attention.head_count_kv') ?? heads
  const headDim = size('attention.key_length') ?? (size('embedding_length') ?? 0) / heads
  return { architecture, heads, kvHeads, headDim }
}

/** The tensors of one file under Hugging Face's names. What has no such name keeps its own, for the loader to refuse. */
export function* huggingFaceTensors(header: GgufHeader, naming: GgufNaming): Iterable<[string, StoredTensor]> {
  for (const [name, tensor] of header.tensors) {
    if (DERIVED.test(name)) continue
    const [, layer, part, expert, kind] = /^blk\.(\d+)\.(\w+)(?:\.(\d+))?\.(weight|bias)$/.exec(name) ?? []
    if (layer === undefined || part === undefined || kind === undefined) {
      const [whole, wholeKind] = name.split('.', 2)
      const known = Object.hasOwn(WHOLE, whole!) ? `${WHOLE[whole!]}.${wholeKind}` : name
      yield [known, plain(name, tensor, naming)]
      continue
    }
    const at = (module: string) => `model.layers.${layer}.${module}.${kind}`
    if (expert !== undefined) yield [at(expertName(part.replace('ffn_', ''), Number(expert), naming)), { ...tensor }]
    else if (part.endsWith('_exps')) yield* expertTensors(header.file, part, tensor, naming, at)
    else if (part === 'attn_qkv' && !FUSED.has(naming.architecture))
      yield* separated(header.file, name, tensor, naming, at)
    else {
      const own = OWN[naming.architecture]?.[part] ?? LAYER[part]
      yield [own === undefined ? name : at(own), plain(name, tensor, naming)]
    }
  }
}

function plain(name: string, tensor: GgufTensor, { architecture, heads, kvHeads }: GgufNaming): StoredTensor {
  const rows = tensor.dims[0]!
  if (PAIRED.has(architecture) && /\.attn_q\./.test(name)) return { ...tensor, pairedRows: rows / heads }
  if (PAIRED.has(architecture) && /\.attn_k\./.test(name)) return { ...tensor, pairedRows: rows / kvHeads }
  if (NORMS_PLUS_ONE.has(architecture) && name.endsWith('norm.weight')) return { ...tensor, surplus: 1 }
  return tensor
}

/** Rows `[from, from + rows)` of a matrix, or of several that are stacked. */
function rowsOf(tensor: GgufTensor, from: number, rows: number): StoredTensor {
  const columns = tensor.dims.length === 1 ? 1 : tensor.dims.at(-1)!
  const { elements, bytes } = GGML_TYPES[tensor.type]
  const dims = tensor.dims.length === 1 ? [rows] : [rows, columns]
  return { type: tensor.type, dims, start: tensor.start + ((from * columns) / elements) * bytes }
}

function expertName(part: string, expert: number, { architecture }: GgufNaming): string {
  const [module, names] = architecture === 'llama' ? ['block_sparse_moe', MIXTRAL_EXPERTS] : (['mlp', EXPERTS] as const)
  return `${module}.experts.${expert}.${names[part] ?? part}`
}

/** The matrices of all experts of a layer stand one after the other in `[experts, rows, columns]`. */
function* expertTensors(
  file: string,
  part: string,
  tensor: GgufTensor,
  naming: GgufNaming,
  at: (module: string) => string,
): Iterable<[string, StoredTensor]> {
  const [experts, rows] = tensor.dims
  if (tensor.dims.length !== 3 || experts! > MAX_EXPERTS) throw malformed(file, `${part} is [${tensor.dims}]`)
  const own = part.slice('ffn_'.length, -'_exps'.length)
  const parts = own === 'gate_up' ? ['gate', 'up'] : [own]
  const each = rows! / parts.length
  for (let expert = 0; expert < experts!; expert++)
    for (const [i, name] of parts.entries())
      yield [at(expertName(name, expert, naming)), rowsOf(tensor, expert * rows! + i * each, each)]
}

const MAX_EXPERTS = 4096

/** The rows of q, k and v, which a converter may put below each other. */
function* separated(
  file: string,
  name: string,
  tensor: GgufTensor,
  { architecture, heads, kvHeads, headDim }: GgufNaming,
  at: (module: string) => string,
): Iterable<[string, StoredTensor]> {
  const [q, kv] = [heads * headDim, kvHeads * headDim]
  if (tensor.dims[0] !== q + 2 * kv) throw malformed(file, `${name} is [${tensor.dims}]`)
  const paired = PAIRED.has(architecture) ? { pairedRows: headDim } : {}
  yield [at('self_attn.q_proj'), { ...rowsOf(tensor, 0, q), ...paired }]
  yield [at('self_attn.k_proj'), { ...rowsOf(tensor, q, kv), ...paired }]
  yield [at('self_attn.v_proj'), rowsOf(tensor, q + kv, kv)]
}
