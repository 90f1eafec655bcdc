import type { Config } from './config-schema.ts'
import type { ExpertsShape, Norms, QkNorm } from './model-shape.ts'

/** What sets a type of model apart from Llama. A model is added by a row of `ARCHITECTURES` and a fixture. */
export interface Architecture {
  /** The class of transformers that computes it: the only one that `architectures` may name. */
  readonly className: string
  /** What transformers takes where `config.json` is silent, as far as that differs from Llama. */
  readonly defaults?: Partial<Config>
  /** The base of rotary embedding where no option says one. */
  readonly theta?: number
  /** The only scaling of rotary embedding, whatever older names `config.json` has for it. */
  readonly oneScaling?: 'longrope'
  /** Options with a value other than the neutral one that this type computes; of every other type they are refused. */
  readonly computes?: readonly (keyof Config)[]
  readonly norms?: Norms
  /** Norms multiply by 1 + weight. */
  readonly gainsLessOne?: boolean
  /** The option that names the activation. Default: `hidden_act`. */
  readonly activation?: 'hidden_activation'
  readonly qkNorm?: QkNorm
  /** q, k and v have biases without any option that says so. */
  readonly qkvBias?: boolean
  readonly embeddingScale?: (config: Config) => number
  /** Whether this layer has a window, where `layer_types` does not say it and `sliding_window` is set. Absent: no layer has. */
  readonly slides?: (config: Config, layer: number) => boolean
  readonly rotates?: (config: Config, layer: number) => boolean
  readonly experts?: (config: Config) => ExpertsShape
  readonly expertsIn?: (config: Config, layer: number) => boolean
}

const everyLayer = () => true
const sqrtOfHidden = ({ hidden_size }: Config): number => Math.fround(Math.sqrt(hidden_size))
const qwenSlides = ({ max_window_layers }: Config, layer: number): boolean => layer >= (max_window_layers ?? 28)

const SMOLLM_INTERVAL = 4
const smollmRotates = ({ no_rope_layers, no_rope_layer_interval }: Config, layer: number): boolean =>
  no_rope_layers == null ? (layer + 1) % (no_rope_layer_interval ?? SMOLLM_INTERVAL) !== 0 : no_rope_layers[layer] === 1

const GEMMA_PATTERN = 6

export const ARCHITECTURES: Readonly<Record<string, Architecture>> = {
  llama: {
    className: 'LlamaForCausalLM',
    computes: ['attention_bias', 'mlp_bias'],
  },
  mistral: {
    className: 'MistralForCausalLM',
    defaults: { num_key_value_heads: 8, max_position_embeddings: 131_072, sliding_window: 4096 },
    computes: ['sliding_window'],
    slides: everyLayer,
  },
  qwen2: {
    className: 'Qwen2ForCausalLM',
    defaults: {
      num_key_value_heads: 32,
      max_position_embeddings: 32_768,
      sliding_window: 4096,
      use_sliding_window: false,
    },
    computes: ['sliding_window', 'layer_types'],
    qkvBias: true,
    slides: qwenSlides,
  },
  qwen3: {
    className: 'Qwen3ForCausalLM',
    defaults: {
      num_key_value_heads: 32,
      head_dim: 128,
      max_position_embeddings: 32_768,
      sliding_window: 4096,
      use_sliding_window: false,
    },
    computes: ['attention_bias', 'sliding_window', 'layer_types'],
    qkNorm: 'head',
    slides: qwenSlides,
  },
  qwen3_moe: {
    className: 'Qwen3MoeForCausalLM',
    defaults: {
      num_key_value_heads: 4,
      max_position_embeddings: 32_768,
      sliding_window: 4096,
      use_sliding_window: false,
    },
    computes: ['attention_bias', 'sliding_window', 'num_experts', 'num_local_experts'],
    qkNorm: 'head',
    slides: everyLayer,
    experts: ({ num_experts, num_local_experts, num_experts_per_tok, moe_intermediate_size, norm_topk_prob }) => ({
      count: num_experts ?? num_local_experts ?? 128,
      perToken: num_experts_per_tok ?? 8,
      ffn: moe_intermediate_size ?? 768,
      renormalised: norm_topk_prob ?? false,
    }),
    expertsIn: ({ mlp_only_layers, decoder_sparse_step }, layer) =>
      !mlp_only_layers?.includes(layer) && (layer + 1) % (decoder_sparse_step ?? 1) === 0,
  },
  mixtral: {
    className: 'MixtralForCausalLM',
    defaults: { num_key_value_heads: 8, max_position_embeddings: 131_072, rms_norm_eps: 1e-5 },
    theta: 1e6,
    computes: ['sliding_window', 'num_local_experts'],
    slides: everyLayer,
    experts: ({ num_local_experts, num_experts_per_tok, intermediate_size }) => ({
      count: num_local_experts ?? 8,
      perToken: num_experts_per_tok ?? 2,
      ffn: intermediate_size,
      renormalised: true,
    }),
    expertsIn: everyLayer,
  },
  gemma: {
    className: 'GemmaForCausalLM',
    defaults: {
      num_key_value_heads: 16,
      head_dim: 256,
      max_position_embeddings: 8192,
      tie_word_embeddings: true,
      hidden_act: 'gelu_pytorch_tanh',
    },
    computes: ['attention_bias'],
    gainsLessOne: true,
    embeddingScale: sqrtOfHidden,
  },
  gemma2: {
    className: 'Gemma2ForCausalLM',
    defaults: {
      num_key_value_heads: 4,
      head_dim: 256,
      max_position_embeddings: 8192,
      tie_word_embeddings: true,
      hidden_activation: 'gelu_pytorch_tanh',
      query_pre_attn_scalar: 256,
      sliding_window: 4096,
      attn_logit_softcapping: 50,
      final_logit_softcapping: 30,
    },
    computes: [
      'attention_bias',
      'sliding_window',
      'layer_types',
      'query_pre_attn_scalar',
      'attn_logit_softcapping',
      'final_logit_softcapping',
    ],
    norms: 'sandwich',
    gainsLessOne: true,
    activation: 'hidden_activation',
    embeddingScale: sqrtOfHidden,
    slides: (_config, layer) => layer % 2 === 0,
  },
  gemma3_text: {
    className: 'Gemma3ForCausalLM',
    defaults: {
      num_key_value_heads: 4,
      head_dim: 256,
      max_position_embeddings: 131_072,
      tie_word_embeddings: true,
      hidden_activation: 'gelu_pytorch_tanh',
      query_pre_attn_scalar: 256,
      sliding_window: 4096,
      rope_local_base_freq: 1e4,
    },
    theta: 1e6,
    computes: [
      'attention_bias',
      'sliding_window',
      'layer_types',
      'query_pre_attn_scalar',
      'final_logit_softcapping',
      'rope_local_base_freq',
    ],
    norms: 'sandwich',
    gainsLessOne: true,
    activation: 'hidden_activation',
    qkNorm: 'head',
    embeddingScale: sqrtOfHidden,
    slides: ({ _sliding_window_pattern, sliding_window_pattern }, layer) =>
      (layer + 1) % (sliding_window_pattern ?? _sliding_window_pattern ?? GEMMA_PATTERN) !== 0,
  },
  phi3: {
    className: 'Phi3ForCausalLM',
    defaults: { max_position_embeddings: 4096, original_max_position_embeddings: 4096, rms_norm_eps: 1e-5 },
    computes: ['sliding_window', 'partial_rotary_factor'],
    slides: everyLayer,
    oneScaling: 'longrope',
  },
  olmo2: {
    className: 'Olmo2ForCausalLM',
    defaults: { rms_norm_eps: 1e-5 },
    computes: ['attention_bias'],
    norms: 'post',
    qkNorm: 'full',
  },
  granite: {
    className: 'GraniteForCausalLM',
    defaults: { attention_multiplier: 1 },
    computes: [
      'attention_bias',
      'mlp_bias',
      'embedding_multiplier',
      'residual_multiplier',
      'attention_multiplier',
      'logits_scaling',
    ],
    embeddingScale: ({ embedding_multiplier }) => embedding_multiplier ?? 1,
  },
  smollm3: {
    className: 'SmolLM3ForCausalLM',
    defaults: {
      num_key_value_heads: 4,
      max_position_embeddings: 32_768,
      tie_word_embeddings: true,
      use_sliding_window: false,
    },
    theta: 2e6,
    computes: [
      'attention_bias',
      'mlp_bias',
      'sliding_window',
      'layer_types',
      'no_rope_layers',
      'no_rope_layer_interval',
    ],
    slides: (config, layer) => !smollmRotates(config, layer),
    rotates: smollmRotates,
  },
}
