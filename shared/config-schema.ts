import { z } from 'zod'

/**
 * The options of `config.json` that any of the architectures reads, with the limits of their values. Far above any model
 * known, and low enough that products of sizes stay exact integers.
 */
const MAX_LAYERS = 1024
const MAX_HEADS = 1024
const MAX_HEAD_DIM = 1024
const MAX_WIDTH = 1 << 20
export const MAX_VOCAB = 1 << 22
const MAX_CONTEXT = 1 << 26
const MAX_EXPERTS = 4096

const size = (max: number) => z.number().int().min(1).max(max)
const positive = z.number().positive().max(1e6)
const flag = z.boolean().nullish()
const text = z.string().nullish()

const factor = z.number().min(1).max(1e6)
const theta = z.number().min(1).max(1e15)
/** 0 is as good as absent. */
const weight = z.number().min(0).max(1e6)
const factors = z.array(positive).max(MAX_HEAD_DIM)

export const ropeSchema = z.looseObject({
  rope_type: z.string().optional(),
  type: z.string().optional(),
  rope_theta: theta.optional(),
  factor: factor.nullish(),
  partial_rotary_factor: z.number().positive().max(1).optional(),
  original_max_position_embeddings: size(MAX_CONTEXT).nullish(),
  low_freq_factor: positive.optional(),
  high_freq_factor: positive.optional(),
  attention_factor: positive.nullish(),
  beta_fast: positive.nullish(),
  beta_slow: positive.nullish(),
  mscale: weight.nullish(),
  mscale_all_dim: weight.nullish(),
  truncate: z.boolean().optional(),
  short_factor: factors.optional(),
  long_factor: factors.optional(),
})
export type RopeConfig = z.infer<typeof ropeSchema>

/**
 * transformers 5 nests one of them for each type of layer where they differ. If all layers are of one type, it leaves an
 * empty outer one beside the nested ones.
 */
const nestedSchema = z.strictObject({
  full_attention: ropeSchema,
  sliding_attention: ropeSchema,
  rope_type: z.literal('default').optional(),
  rope_theta: z.null().optional(),
})
const flatSchema = ropeSchema.refine((rope) => !('full_attention' in rope || 'sliding_attention' in rope))
const ropesSchema = z.union([nestedSchema, flatSchema])

const perLayer = <T extends z.ZodType>(one: T) => z.array(one).max(MAX_LAYERS).nullish()

export const configSchema = z.looseObject({
  architectures: z.array(z.string()).nullish(),
  hidden_size: size(MAX_WIDTH),
  intermediate_size: size(MAX_WIDTH),
  num_hidden_layers: size(MAX_LAYERS),
  num_attention_heads: size(MAX_HEADS),
  num_key_value_heads: size(MAX_HEADS).nullish(),
  head_dim: size(MAX_HEAD_DIM).nullish(),
  vocab_size: size(MAX_VOCAB),
  max_position_embeddings: size(MAX_CONTEXT).default(2048),
  original_max_position_embeddings: size(MAX_CONTEXT).nullish(),
  rms_norm_eps: z.number().positive().max(1).default(1e-6),
  tie_word_embeddings: z.boolean().default(false),
  hidden_act: text,
  hidden_activation: text,
  attention_bias: flag,
  mlp_bias: flag,
  partial_rotary_factor: z.number().positive().max(1).nullish(),
  rope_theta: theta.nullish(),
  rope_local_base_freq: theta.nullish(),
  rope_scaling: ropesSchema.nullish(),
  rope_parameters: ropesSchema.nullish(),
  sliding_window: size(MAX_CONTEXT).nullish(),
  use_sliding_window: flag,
  max_window_layers: z.number().int().min(0).max(MAX_LAYERS).nullish(),
  sliding_window_pattern: size(MAX_LAYERS).nullish(),
  _sliding_window_pattern: size(MAX_LAYERS).nullish(),
  layer_types: perLayer(z.enum(['full_attention', 'sliding_attention'])),
  no_rope_layers: perLayer(z.union([z.literal(0), z.literal(1)])),
  no_rope_layer_interval: size(MAX_LAYERS).nullish(),
  query_pre_attn_scalar: positive.nullish(),
  attn_logit_softcapping: positive.nullish(),
  final_logit_softcapping: positive.nullish(),
  embedding_multiplier: positive.nullish(),
  residual_multiplier: positive.nullish(),
  attention_multiplier: positive.nullish(),
  logits_scaling: positive.nullish(),
  num_local_experts: size(MAX_EXPERTS).nullish(),
  num_experts: size(MAX_EXPERTS).nullish(),
  num_experts_per_tok: size(MAX_EXPERTS).nullish(),
  moe_intermediate_size: size(MAX_WIDTH).nullish(),
  norm_topk_prob: flag,
  decoder_sparse_step: size(MAX_LAYERS).nullish(),
  mlp_only_layers: z
    .array(
      z
        .number()
        .int()
        .min(0)
        .max(MAX_LAYERS - 1),
    )
    .nullish(),
})
export type Config = z.infer<typeof configSchema>
