import { z } from 'zod'
import { HeadraceError } from './errors.ts'
import type { ModelShape, RopeShape } from './model-shape.ts'

/**
 * `config.json` of a Hugging Face folder to the shape that Headrace computes, or a coded error: an option that would
 * change the arithmetic is refused by name, never ignored. Reads transformers 5 (`rope_parameters`, `dtype`) and the
 * older style (`rope_theta`, `rope_scaling`, `torch_dtype`). The dtype of the weights is taken from the weight files.
 *
 * Absent options have the defaults of transformers' `LlamaConfig`.
 */
export function parseModelConfig(json: unknown): ModelShape {
  const { model_type } = read(typeSchema, json)
  if (model_type !== 'llama') throw unsupported('model_type', model_type)
  const config = read(llamaSchema, json)
  refuseOtherArithmetic(config)
  const heads = config.num_attention_heads
  const kvHeads = config.num_key_value_heads ?? heads
  if (heads % kvHeads !== 0)
    throw bad(`num_attention_heads ${heads} is not a multiple of num_key_value_heads ${kvHeads}`)
  return {
    architecture: 'llama',
    layers: config.num_hidden_layers,
    hidden: config.hidden_size,
    heads,
    kvHeads,
    headDim: headDimOf(config),
    ffn: config.intermediate_size,
    vocab: config.vocab_size,
    contextLength: config.max_position_embeddings,
    normEpsilon: config.rms_norm_eps,
    tiedHead: config.tie_word_embeddings,
    rope: ropeOf(config),
  }
}

/** The ids that end an answer: of `generation_config.json` where it names any, else of `config.json`. */
export function parseEosTokens(config: unknown, generationConfig?: unknown): number[] {
  const own = read(eosSchema, generationConfig ?? {}).eos_token_id
  const ids = own ?? read(eosSchema, config).eos_token_id ?? []
  return [...new Set(typeof ids === 'number' ? [ids] : ids)]
}

/** Far above any model known, and low enough that products of sizes stay exact integers. */
const size = (max: number) => z.number().int().min(1).max(max)
const MAX_LAYERS = 1024
const MAX_HEADS = 1024
const MAX_HEAD_DIM = 1024
const MAX_WIDTH = 1 << 20
const MAX_VOCAB = 1 << 22
const MAX_CONTEXT = 1 << 26

const factor = z.number().min(1).max(1e6)
const theta = z.number().min(1).max(1e15)
const tokenId = z
  .number()
  .int()
  .min(0)
  .max(MAX_VOCAB - 1)

const typeSchema = z.looseObject({ model_type: z.string() })
const eosSchema = z.looseObject({ eos_token_id: z.union([tokenId, z.array(tokenId).max(256)]).nullish() })

const ropeSchema = z.looseObject({
  rope_type: z.string().optional(),
  type: z.string().optional(),
  rope_theta: theta.optional(),
  partial_rotary_factor: z.number().optional(),
})
const linearSchema = z.looseObject({ factor })
const llama3Schema = z.looseObject({
  factor,
  low_freq_factor: z.number().positive().max(1e6),
  high_freq_factor: z.number().positive().max(1e6),
  original_max_position_embeddings: size(MAX_CONTEXT),
})

const llamaSchema = z.looseObject({
  architectures: z.array(z.string()).nullish(),
  hidden_size: size(MAX_WIDTH),
  intermediate_size: size(MAX_WIDTH),
  num_hidden_layers: size(MAX_LAYERS),
  num_attention_heads: size(MAX_HEADS),
  num_key_value_heads: size(MAX_HEADS).nullish(),
  head_dim: size(MAX_HEAD_DIM).nullish(),
  vocab_size: size(MAX_VOCAB),
  max_position_embeddings: size(MAX_CONTEXT).default(2048),
  rms_norm_eps: z.number().positive().max(1).default(1e-6),
  tie_word_embeddings: z.boolean().default(false),
  hidden_act: z.string().default('silu'),
  attention_bias: z.boolean().default(false),
  mlp_bias: z.boolean().default(false),
  partial_rotary_factor: z.number().optional(),
  sliding_window: z.number().nullish(),
  use_sliding_window: z.boolean().optional(),
  layer_types: z.array(z.string()).nullish(),
  quantization_config: z.unknown().optional(),
  rope_theta: theta.optional(),
  rope_scaling: ropeSchema.nullish(),
  rope_parameters: ropeSchema.nullish(),
})
type LlamaConfig = z.infer<typeof llamaSchema>
type RopeConfig = z.infer<typeof ropeSchema>

function refuseOtherArithmetic(config: LlamaConfig): void {
  const other = config.architectures?.find((name) => name !== 'LlamaForCausalLM')
  if (other !== undefined) throw unsupported('architectures', other)
  if (config.hidden_act !== 'silu') throw unsupported('hidden_act', config.hidden_act)
  if (config.attention_bias) throw unsupported('attention_bias', true)
  if (config.mlp_bias) throw unsupported('mlp_bias', true)
  if (config.sliding_window != null && config.use_sliding_window !== false)
    throw unsupported('sliding_window', config.sliding_window)
  const layerType = config.layer_types?.find((type) => type !== 'full_attention')
  if (layerType !== undefined) throw unsupported('layer_types', layerType)
  if (config.quantization_config != null) throw unsupported('quantization_config', config.quantization_config)
  for (const holder of [config, config.rope_parameters, config.rope_scaling]) {
    const part = holder?.partial_rotary_factor ?? 1
    if (part !== 1) throw unsupported('partial_rotary_factor', part)
  }
}

function headDimOf(config: LlamaConfig): number {
  const headDim = config.head_dim ?? config.hidden_size / config.num_attention_heads
  if (!Number.isInteger(headDim))
    throw bad(`hidden_size ${config.hidden_size} is not a multiple of num_attention_heads and head_dim is absent`)
  if (headDim % 2 !== 0) throw bad(`head_dim ${headDim} is odd: rotary embedding turns pairs`)
  return headDim
}

/** Both styles may be present (converters write both); they must then say the same. */
function ropeOf(config: LlamaConfig): RopeShape {
  const [one, other] = [config.rope_parameters, config.rope_scaling]
    .filter((rope) => rope != null)
    .map((rope) => ropeShape(rope, config.rope_theta))
  if (one && other && JSON.stringify(one) !== JSON.stringify(other))
    throw bad('rope_parameters and rope_scaling contradict each other')
  return one ?? ropeShape({}, config.rope_theta)
}

function ropeShape(rope: RopeConfig, outerTheta: number | undefined): RopeShape {
  if (rope.rope_theta !== undefined && outerTheta !== undefined && rope.rope_theta !== outerTheta)
    throw bad(`rope_theta is ${outerTheta} and also ${rope.rope_theta}`)
  const theta = rope.rope_theta ?? outerTheta ?? 10_000
  const kind = rope.rope_type ?? rope.type ?? 'default'
  if (rope.type !== undefined && rope.type !== kind) throw bad(`rope_type ${kind} contradicts type ${rope.type}`)
  switch (kind) {
    case 'default':
      return { kind, theta }
    case 'linear':
      return { kind, theta, factor: read(linearSchema, rope).factor }
    case 'llama3': {
      const r = read(llama3Schema, rope)
      if (r.low_freq_factor >= r.high_freq_factor) throw bad('low_freq_factor is not below high_freq_factor')
      return {
        kind,
        theta,
        factor: r.factor,
        lowFreqFactor: r.low_freq_factor,
        highFreqFactor: r.high_freq_factor,
        originalContextLength: r.original_max_position_embeddings,
      }
    }
    default:
      throw unsupported('rope_type', kind)
  }
}

function read<T>(schema: z.ZodType<T>, json: unknown): T {
  const result = schema.safeParse(json)
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
