import { HeadraceError } from '../errors.ts'
import type { GgufTensor } from './header.ts'
import type { Metadata } from './metadata.ts'
import { type FrequencyFactors, ropeScaling } from './rope.ts'

/** What a file says about its model: the metadata and the tensors of all its parts. */
export interface GgufModel {
  readonly metadata: Metadata
  readonly tensors: ReadonlyMap<string, GgufTensor>
  /** The values of `rope_freqs`, `rope_factors_long` and `rope_factors_short`, where the file has them. */
  readonly factors: FrequencyFactors
}

/** What the architecture of a file (`general.architecture`) adds to the options that all share. */
type Options = (hparam: HParams) => Record<string, unknown>

/**
 * Architectures of llama.cpp, under the options that `config.json` would have. What llama.cpp knows by the architecture
 * alone (conversion/*.py drops it, src/models/*.cpp has it) is put back here.
 */
const FAMILIES: Readonly<Record<string, Options>> = {
  llama: (h) => (h.number('expert_count') ? mixtral(h) : h.number('attention.sliding_window') ? mistral(h) : llama(h)),
  qwen2: () => ({ model_type: 'qwen2', use_sliding_window: false }),
  qwen3: (h) => ({ model_type: 'qwen3', use_sliding_window: false, attention_bias: h.has('attn_q.bias') }),
  qwen3moe: (h) => ({
    model_type: 'qwen3_moe',
    use_sliding_window: false,
    attention_bias: h.has('attn_q.bias'),
    num_experts: h.needed('expert_count'),
    num_experts_per_tok: h.needed('expert_used_count'),
    moe_intermediate_size: h.needed('expert_feed_forward_length'),
    norm_topk_prob: true,
    decoder_sparse_step: 1,
    mlp_only_layers: [],
  }),
  gemma: () => ({ model_type: 'gemma', ...GEMMA }),
  gemma2: (h) => ({
    model_type: 'gemma2',
    ...GEMMA,
    attn_logit_softcapping: h.number('attn_logit_softcapping') ?? 50,
    final_logit_softcapping: h.number('final_logit_softcapping') ?? 30,
    query_pre_attn_scalar: h.layers === 46 ? h.hidden / h.heads : h.headDim,
    sliding_window: h.number('attention.sliding_window') ?? 4096,
    layer_types: h.layerTypes(2),
  }),
  gemma3: (h) => ({
    model_type: 'gemma3_text',
    ...GEMMA,
    final_logit_softcapping: h.number('final_logit_softcapping') ?? null,
    query_pre_attn_scalar: h.layers === 62 ? h.hidden / h.heads : h.headDim,
    ...slidingGemma3(h),
  }),
  phi3: (h) => ({
    model_type: 'phi3',
    sliding_window: h.number('attention.sliding_window') || null,
    original_max_position_embeddings: h.number('rope.scaling.original_context_length') ?? h.needed('context_length'),
  }),
  olmo2: (h) => {
    const window = h.number('attention.sliding_window')
    if (!window) return { model_type: 'olmo2', attention_bias: h.has('attn_q.bias') }
    return { model_type: 'olmo3', sliding_window: window, layer_types: h.layerTypes(4) }
  },
  granite: (h) => ({
    ...llama(h),
    model_type: 'granite',
    attention_multiplier: h.number('attention.scale') ?? 1 / Math.sqrt(h.headDim),
    embedding_multiplier: h.number('embedding_scale') ?? 1,
    residual_multiplier: h.number('residual_scale') ?? 1,
    logits_scaling: h.number('logit_scale') ?? 1,
  }),
  smollm3: (h) => ({
    ...llama(h),
    model_type: 'smollm3',
    no_rope_layer_interval: 4,
    no_rope_layers: Array.from({ length: h.layers }, (_, layer) => ((layer + 1) % 4 === 0 ? 0 : 1)),
  }),
}

const GEMMA = { hidden_activation: 'gelu_pytorch_tanh', hidden_act: 'gelu_pytorch_tanh' }

const llama: Options = (h) => ({
  model_type: 'llama',
  attention_bias: h.has('attn_q.bias'),
  mlp_bias: h.has('ffn_down.bias'),
})

const mistral: Options = (h) => ({ model_type: 'mistral', sliding_window: h.needed('attention.sliding_window') })

const mixtral: Options = (h) => ({
  model_type: 'mixtral',
  num_local_experts: h.needed('expert_count'),
  num_experts_per_tok: h.needed('expert_used_count'),
  sliding_window: h.number('attention.sliding_window') || null,
})

function slidingGemma3(h: HParams): Record<string, unknown> {
  const window = h.number('attention.sliding_window')
  if (!window) return { layer_types: Array.from({ length: h.layers }, () => 'full_attention'), sliding_window: 4096 }
  const local = { rope_type: 'default', rope_theta: h.number('rope.freq_base_swa') ?? 10_000 }
  return {
    sliding_window: window,
    layer_types: h.layerTypes(6),
    rope_parameters: { full_attention: h.rope(), sliding_attention: local },
  }
}

/** The object that the model's `config.json` would have been. Errors: `model_bad_config`, `model_unsupported`. */
export function configOf(model: GgufModel): Record<string, unknown> {
  const { metadata, tensors } = model
  const architecture = metadata.text('general.architecture') ?? ''
  if (!Object.hasOwn(FAMILIES, architecture))
    throw new HeadraceError(
      'model_unsupported',
      `${metadata.file}: general.architecture = ${architecture.slice(0, 100)}`,
      {
        details: { option: 'general.architecture', value: architecture.slice(0, 100) },
      },
    )
  const h = new HParams(model, architecture)
  return {
    hidden_size: h.hidden,
    intermediate_size: h.needed('feed_forward_length'),
    num_hidden_layers: h.layers,
    num_attention_heads: h.heads,
    num_key_value_heads: h.number('attention.head_count_kv') ?? h.heads,
    head_dim: h.headDim,
    vocab_size: h.vocab,
    max_position_embeddings: h.needed('context_length'),
    rms_norm_eps: h.needed('attention.layer_norm_rms_epsilon'),
    tie_word_embeddings: !tensors.has('output.weight'),
    hidden_act: 'silu',
    rope_parameters: h.rope(),
    ...FAMILIES[architecture]!(h),
  }
}

/** Lists with an entry a layer are made before anybody else looks at the number. */
const MAX_LAYERS = 1024

/** The hyper-parameters of a file: what `<architecture>.<key>` holds, and what follows from several. */
class HParams {
  readonly layers: number
  readonly hidden: number
  readonly heads: number
  readonly headDim: number
  readonly vocab: number
  readonly #model: GgufModel
  readonly #architecture: string

  constructor(model: GgufModel, architecture: string) {
    this.#model = model
    this.#architecture = architecture
    this.layers = this.needed('block_count')
    if (!(this.layers >= 1 && this.layers <= MAX_LAYERS)) throw model.metadata.bad(`it has ${this.layers} layers`)
    this.hidden = this.needed('embedding_length')
    this.heads = this.needed('attention.head_count')
    this.headDim = this.number('attention.key_length') ?? this.hidden / this.heads
    const values = this.number('attention.value_length') ?? this.headDim
    if (values !== this.headDim) throw model.metadata.bad(`keys have ${this.headDim} dimensions, values ${values}`)
    const embedding = model.tensors.get('token_embd.weight')
    if (embedding === undefined) throw model.metadata.bad('it has no token_embd.weight')
    this.vocab = embedding.dims[0]!
  }

  number(key: string): number | undefined {
    return this.#model.metadata.number(`${this.#architecture}.${key}`)
  }

  needed(key: string): number {
    return this.#model.metadata.neededNumber(`${this.#architecture}.${key}`)
  }

  /** Whether the first layer has this tensor. */
  has(name: string): boolean {
    return this.#model.tensors.has(`blk.0.${name}`)
  }

  rope(): Record<string, unknown> {
    const dim = this.number('rope.dimension_count') ?? this.headDim
    const part = dim === this.headDim ? {} : { partial_rotary_factor: dim / this.headDim }
    const { metadata, factors } = this.#model
    const text = (key: string) => metadata.text(`${this.#architecture}.${key}`)
    return { ...ropeScaling({ number: (key) => this.number(key), text, factors, dim, metadata }), ...part }
  }

  /** Every `period`-th layer attends to everything, the others to the window, unless the file says it layer by layer. */
  layerTypes(period: number): string[] {
    const key = `${this.#architecture}.attention.sliding_window_pattern`
    const { metadata } = this.#model
    const told = metadata.isList(key) ? metadata.numbers(key) : undefined
    if (told !== undefined && told.length !== this.layers) throw metadata.bad(`${key} has ${told.length} elements`)
    const step = told === undefined ? (metadata.number(key) ?? period) : 0
    const slides = (layer: number) => (told === undefined ? (layer + 1) % step !== 0 : told[layer] !== 0)
    return Array.from({ length: this.layers }, (_, layer) => (slides(layer) ? 'sliding_attention' : 'full_attention'))
  }
}
