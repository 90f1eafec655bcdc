import { z } from 'zod'
import { ARCHITECTURES, type Architecture } from './architectures.ts'
import { type Config, configSchema, MAX_VOCAB } from './config-schema.ts'
import { HeadraceError } from './errors.ts'
import type { Activation, LayerShape, ModelShape, RopeShape } from './model-shape.ts'
import { type Ropes, readRopes } from './rope-config.ts'
import { safeParse } from './safe-parse.ts'

/**
 * `config.json` of a Hugging Face folder to the shape that Headrace computes, or a coded error: an option that would
 * change the arithmetic is refused by name, never ignored. Reads transformers 5 (`rope_parameters`, `dtype`) and the
 * older style (`rope_theta`, `rope_scaling`, `torch_dtype`). The dtype of the weights is taken from the weight files.
 * Absent options have the defaults of transformers' own configuration of that `model_type`.
 */
export function parseModelConfig(json: unknown): ModelShape {
  const { model_type } = read(typeSchema, json)
  const architecture = Object.hasOwn(ARCHITECTURES, model_type) ? ARCHITECTURES[model_type] : undefined
  if (architecture === undefined) throw unsupported('model_type', model_type)
  const given = z.record(z.string(), z.unknown()).parse(json)
  refuseUnknownValues(given, architecture)
  const config = read(configSchema, { ...architecture.defaults, ...given })
  refuseOtherArithmetic(config, architecture)
  return shapeOf(model_type, config, architecture)
}

/** The ids that end an answer: of `generation_config.json` where it names any, else of `config.json`. */
export function parseEosTokens(config: unknown, generationConfig?: unknown): number[] {
  const own = read(eosSchema, generationConfig ?? {}).eos_token_id
  const ids = own ?? read(eosSchema, config).eos_token_id ?? []
  return [...new Set(typeof ids === 'number' ? [ids] : ids)]
}

const tokenId = z
  .number()
  .int()
  .min(0)
  .max(MAX_VOCAB - 1)
const typeSchema = z.looseObject({ model_type: z.string() })
const eosSchema = z.looseObject({ eos_token_id: z.union([tokenId, z.array(tokenId).max(256)]).nullish() })

function shapeOf(type: string, config: Config, architecture: Architecture): ModelShape {
  const heads = config.num_attention_heads
  const kvHeads = config.num_key_value_heads ?? heads
  if (heads % kvHeads !== 0)
    throw bad(`num_attention_heads ${heads} is not a multiple of num_key_value_heads ${kvHeads}`)
  const headDim = headDimOf(config)
  const ropes = readRopes(config, architecture)
  const experts = architecture.experts?.(config)
  if (experts && experts.perToken > experts.count)
    throw bad(`num_experts_per_tok ${experts.perToken} is more than the ${experts.count} experts`)
  const { attn_logit_softcapping: scoreCap, final_logit_softcapping: logitCap } = config
  const capsScores = architecture.computes?.includes('attn_logit_softcapping')
  const attentionBias = config.attention_bias ?? false
  return {
    architecture: type,
    layers: config.num_hidden_layers,
    hidden: config.hidden_size,
    heads,
    kvHeads,
    headDim,
    ffn: config.intermediate_size,
    vocab: config.vocab_size,
    contextLength: contextLengthOf(config, ropes.full),
    tiedHead: config.tie_word_embeddings,
    normEpsilon: config.rms_norm_eps,
    norms: architecture.norms ?? 'pre',
    qkNorm: architecture.qkNorm ?? 'none',
    activation: activationOf(config, architecture),
    biases: { qkv: attentionBias || (architecture.qkvBias ?? false), o: attentionBias, mlp: config.mlp_bias ?? false },
    embeddingScale: architecture.embeddingScale?.(config) ?? 1,
    residualScale: config.residual_multiplier ?? 1,
    scoreScale: config.attention_multiplier ?? 1 / Math.sqrt(config.query_pre_attn_scalar ?? headDim),
    ...(scoreCap != null && capsScores && { scoreCap }),
    logitScale: 1 / (config.logits_scaling ?? 1),
    ...(logitCap != null && { logitCap }),
    ...(experts && { experts }),
    rotaryDim: rotaryDimOf(headDim, ropes),
    layerShapes: layerShapesOf(config, architecture, ropes),
  }
}

function layerShapesOf(config: Config, architecture: Architecture, ropes: Ropes): LayerShape[] {
  const { num_hidden_layers: layers, layer_types, no_rope_layers } = config
  const types = architecture.computes?.includes('layer_types') ? layer_types : undefined
  if (types != null && types.length !== layers)
    throw bad(`layer_types has ${types.length} entries for ${layers} layers`)
  // a list that is too long is of a model that was cut short
  if (no_rope_layers != null && no_rope_layers.length < layers)
    throw bad(`no_rope_layers has ${no_rope_layers.length} entries for ${layers} layers`)
  const window = config.use_sliding_window === false ? undefined : (config.sliding_window ?? undefined)
  if (window === undefined && types?.includes('sliding_attention'))
    throw bad('layer_types has sliding_attention, but there is no sliding_window')
  return Array.from({ length: layers }, (_, layer) => {
    const slides = types ? types[layer] === 'sliding_attention' : (architecture.slides?.(config, layer) ?? false)
    const rotates = architecture.rotates?.(config, layer) ?? true
    return {
      ...(rotates && { rope: slides ? ropes.sliding : ropes.full }),
      ...(slides && window !== undefined && { window }),
      experts: architecture.expertsIn?.(config, layer) ?? false,
    }
  })
}

/**
 * Every option that changes the arithmetic of some type, and when it changes nothing. `attn_logit_softcapping` is not among
 * them: transformers reads it for Gemma 2 alone, and ignores it in the configurations of its successors.
 */
const NEUTRAL: Readonly<Record<string, (value: never) => boolean>> = {
  attention_bias: (is: boolean) => !is,
  mlp_bias: (is: boolean) => !is,
  partial_rotary_factor: (part: number) => part === 1,
  sliding_window: () => false,
  no_rope_layers: (layers: number[]) => layers.every((rotates) => rotates === 1),
  no_rope_layer_interval: () => false,
  rope_local_base_freq: () => false,
  query_pre_attn_scalar: () => false,
  final_logit_softcapping: () => false,
  embedding_multiplier: (factor: number) => factor === 1,
  residual_multiplier: (factor: number) => factor === 1,
  attention_multiplier: () => false,
  logits_scaling: (factor: number) => factor === 1,
  num_local_experts: () => false,
  num_experts: () => false,
}

function refuseOtherArithmetic(config: Config, { className, computes = [] }: Architecture): void {
  const other = config.architectures?.find((name) => name !== className)
  if (other !== undefined) throw unsupported('architectures', other)
  for (const [option, isNeutral] of Object.entries(NEUTRAL)) {
    const value = config[option]
    const off = option === 'sliding_window' && config.use_sliding_window === false
    if (value != null && !off && !computes.includes(option) && !isNeutral(value as never))
      throw unsupported(option, value)
  }
  if (!computes.includes('partial_rotary_factor') && partialRotation(config) !== 1)
    throw unsupported('partial_rotary_factor', partialRotation(config))
}

function partialRotation({ rope_parameters, rope_scaling }: Config): number {
  for (const holder of [rope_parameters, rope_scaling]) {
    const part = (holder as Record<string, unknown> | null | undefined)?.['partial_rotary_factor']
    if (typeof part === 'number') return part
  }
  return 1
}

/** Options that no type here computes: whatever they say but nothing is another arithmetic. */
const NOT_COMPUTED = [
  'quantization_config',
  'use_bidirectional_attention',
  'clip_qkv',
  'qk_layernorm',
  'use_qk_norm',
  'attention_chunk_size',
  'per_layer_config',
  'kv_lora_rank',
  'q_lora_rank',
  'n_shared_experts',
  'shared_expert_intermediate_size',
] as const

function refuseUnknownValues(given: Record<string, unknown>, { computes }: Architecture): void {
  for (const option of NOT_COMPUTED)
    if (given[option] != null && given[option] !== false) throw unsupported(option, given[option])
  const known = computes?.includes('layer_types') ? ['full_attention', 'sliding_attention'] : ['full_attention']
  const types = given['layer_types']
  const unknown = Array.isArray(types) ? types.find((type) => !known.includes(type)) : undefined
  if (unknown !== undefined) throw unsupported('layer_types', unknown)
}

/** Names of the same function differ between models, and the gate's option between types. */
const ACTIVATIONS: Readonly<Record<string, Activation>> = {
  silu: 'silu',
  swish: 'silu',
  gelu: 'gelu',
  gelu_pytorch_tanh: 'gelu_tanh',
  gelu_new: 'gelu_tanh',
  gelu_fast: 'gelu_tanh',
  gelu_python_tanh: 'gelu_tanh',
  gelu_accurate: 'gelu_tanh',
}

function activationOf(config: Config, architecture: Architecture): Activation {
  const option = architecture.activation ?? 'hidden_act'
  const name = config[option] ?? 'silu'
  const activation = Object.hasOwn(ACTIVATIONS, name) ? ACTIVATIONS[name] : undefined
  if (activation === undefined) throw unsupported(option, name)
  return activation
}

function headDimOf(config: Config): number {
  const headDim = config.head_dim ?? config.hidden_size / config.num_attention_heads
  if (!Number.isInteger(headDim))
    throw bad(`hidden_size ${config.hidden_size} is not a multiple of num_attention_heads and head_dim is absent`)
  if (headDim % 2 !== 0) throw bad(`head_dim ${headDim} is odd: rotary embedding turns pairs`)
  return headDim
}

function rotaryDimOf(headDim: number, { full, partial }: Ropes): number {
  const dim = Math.floor(headDim * partial)
  if (dim < 2 || dim % 2 !== 0)
    throw bad(`partial_rotary_factor ${partial} of head_dim ${headDim} is not a number of pairs`)
  if (full.kind !== 'longrope') return dim
  for (const { length } of [full.shortFactors, full.longFactors])
    if (length !== dim / 2) throw bad(`a list of rope factors has ${length} entries for ${dim / 2} pairs`)
  return dim
}

/** Scaling that grows with the sequence has no end of its own; this much of it keeps tables and sizes bounded. */
const DYNAMIC_REACH = 8

/** Stretched models mostly keep their trained length in `max_position_embeddings`. */
function contextLengthOf({ max_position_embeddings: most }: Config, rope: RopeShape): number {
  if (rope.kind === 'yarn') return Math.max(most, Math.floor(rope.factor * rope.originalContextLength))
  return rope.kind === 'dynamic' ? Math.ceil(most * Math.max(rope.factor, DYNAMIC_REACH)) : most
}

function read<T>(schema: z.ZodType<T>, json: unknown): T {
  const result = safeParse(schema, json)
  if (result.success) return result.data
  const issue = result.error.issues[0]
  throw bad(`${issue?.path.join('.') || 'the file'}: ${issue?.message ?? 'not understood'}`)
}

const bad = (what: string) => new HeadraceError('model_bad_config', `config.json: ${what}`)

function unsupported(option: string, value: unknown): HeadraceError {
  const shown = JSON.stringify(value).slice(0, 200)
  return new HeadraceError('model_unsupported', `config.json: ${option} = ${shown} is not supported`, {
    details: { option, value: shown },
  })
}
