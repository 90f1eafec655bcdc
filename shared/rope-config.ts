import type { Architecture } from './architectures.ts'
import { type Config, type RopeConfig, ropeSchema } from './config-schema.ts'
import { HeadraceError } from './errors.ts'
import type { RopeShape } from './model-shape.ts'

/** How the layers of each type rotate. */
export interface Ropes {
  readonly full: RopeShape
  readonly sliding: RopeShape
  /** The part of a head that is rotated. */
  readonly partial: number
}

const DEFAULT_THETA = 10_000

/**
 * Reads `rope_parameters` (transformers 5) and `rope_theta` with `rope_scaling` (older). Both styles may be present
 * (converters write both); they must then say the same.
 *
 * @throws HeadraceError `model_unsupported` for an unknown scaling, `model_bad_config` for a contradiction
 */
export function readRopes(config: Config, architecture: Architecture): Ropes {
  const hasLocal = architecture.computes?.includes('rope_local_base_freq')
  if (hasLocal && config.rope_parameters != null && !('full_attention' in config.rope_parameters))
    throw bad('rope_parameters does not tell full_attention from sliding_attention')
  const [one, other] = [config.rope_parameters, config.rope_scaling]
    .filter((ropes) => ropes != null)
    .map((ropes) => ropesOf(ropes, config, architecture))
  if (one && other && JSON.stringify(one) !== JSON.stringify(other))
    throw bad('rope_parameters and rope_scaling contradict each other')
  return one ?? other ?? ropesOf({}, config, architecture)
}

function ropesOf(
  ropes: NonNullable<Config['rope_parameters']>,
  config: Config,
  { theta = DEFAULT_THETA, oneScaling }: Architecture,
): Ropes {
  const partialOf = (rope: RopeConfig): number => rope.partial_rotary_factor ?? config.partial_rotary_factor ?? 1
  if ('full_attention' in ropes && 'sliding_attention' in ropes) {
    const [full, sliding] = [ropeSchema.parse(ropes.full_attention), ropeSchema.parse(ropes.sliding_attention)]
    const [fullTheta, slidingTheta] = [config.rope_theta, config.rope_local_base_freq]
    return {
      full: ropeShape(full, full.rope_theta ?? fullTheta ?? theta, config),
      sliding: ropeShape(sliding, sliding.rope_theta ?? slidingTheta ?? DEFAULT_THETA, config),
      partial: partialOf(full),
    }
  }
  const rope = ropes as RopeConfig
  if (rope.rope_theta !== undefined && config.rope_theta != null && rope.rope_theta !== config.rope_theta)
    throw bad(`rope_theta is ${config.rope_theta} and also ${rope.rope_theta}`)
  const full = ropeShape(
    oneScaling ? onlyScaling(rope, oneScaling) : rope,
    rope.rope_theta ?? config.rope_theta ?? theta,
    config,
  )
  const local = config.rope_local_base_freq
  // an older style scales the layers that see everything, and gives the local ones a base of their own
  const sliding = local == null ? full : ({ kind: 'default', theta: local } as const)
  return { full, sliding, partial: partialOf(rope) }
}

/** Old files of such models call the scaling by other names, which are other scalings elsewhere. */
function onlyScaling(rope: RopeConfig, kind: string): RopeConfig {
  const named = rope.rope_type ?? rope.type ?? 'default'
  return named === 'default' || !['su', 'yarn', kind].includes(named) ? rope : { ...rope, type: kind, rope_type: kind }
}

function ropeShape(rope: RopeConfig, theta: number, config: Config): RopeShape {
  const kind = rope.rope_type ?? rope.type ?? 'default'
  if (rope.type !== undefined && rope.type !== kind) throw bad(`rope_type ${kind} contradicts type ${rope.type}`)
  switch (kind) {
    case 'default':
      return { kind, theta }
    case 'linear':
      return { kind, theta, factor: needed(rope, 'factor') }
    case 'dynamic':
      return { kind, theta, factor: needed(rope, 'factor'), originalContextLength: config.max_position_embeddings }
    case 'llama3':
      return llama3(rope, theta, config)
    case 'yarn':
      return yarn(rope, theta, config)
    case 'longrope':
      return longrope(rope, theta, config)
    default:
      throw new HeadraceError(
        'model_unsupported',
        `config.json: rope_type = ${JSON.stringify(kind)} is not supported`,
        {
          details: { option: 'rope_type', value: JSON.stringify(kind).slice(0, 200) },
        },
      )
  }
}

function llama3(rope: RopeConfig, theta: number, config: Config): RopeShape {
  const [lowFreqFactor, highFreqFactor] = [needed(rope, 'low_freq_factor'), needed(rope, 'high_freq_factor')]
  if (lowFreqFactor >= highFreqFactor) throw bad('low_freq_factor is not below high_freq_factor')
  const [factor, originalContextLength] = [needed(rope, 'factor'), originalOf(rope, config)]
  return { kind: 'llama3', theta, factor, lowFreqFactor, highFreqFactor, originalContextLength }
}

function yarn(rope: RopeConfig, theta: number, config: Config): RopeShape {
  const originalContextLength = originalOf(rope, config)
  const factor = rope.factor ?? config.max_position_embeddings / originalContextLength
  const scaleOf = (weight: number): number => (factor <= 1 ? 1 : 0.1 * weight * Math.log(factor) + 1)
  const { mscale, mscale_all_dim } = rope
  const suggested = mscale && mscale_all_dim ? scaleOf(mscale) / scaleOf(mscale_all_dim) : scaleOf(1)
  return {
    kind: 'yarn',
    theta,
    factor,
    attentionFactor: rope.attention_factor ?? suggested,
    betaFast: rope.beta_fast ?? 32,
    betaSlow: rope.beta_slow ?? 1,
    truncate: rope.truncate ?? true,
    originalContextLength,
  }
}

function longrope(rope: RopeConfig, theta: number, config: Config): RopeShape {
  const originalContextLength = originalOf(rope, config)
  const factor = rope.factor ?? config.max_position_embeddings / originalContextLength
  const suggested = factor <= 1 ? 1 : Math.sqrt(1 + Math.log(factor) / Math.log(originalContextLength))
  return {
    kind: 'longrope',
    theta,
    attentionFactor: rope.attention_factor ?? suggested,
    shortFactors: needed(rope, 'short_factor'),
    longFactors: needed(rope, 'long_factor'),
    originalContextLength,
  }
}

/** The length before it was stretched. The outer option is Phi's, which has a default and goes before the inner one. */
const originalOf = (rope: RopeConfig, config: Config): number =>
  config.original_max_position_embeddings ?? rope.original_max_position_embeddings ?? config.max_position_embeddings

function needed<K extends keyof RopeConfig & string>(rope: RopeConfig, option: K): NonNullable<RopeConfig[K]> {
  const value = rope[option]
  if (value == null) throw bad(`${option} is absent, which rope_type ${rope.rope_type ?? rope.type} needs`)
  return value as NonNullable<RopeConfig[K]>
}

const bad = (what: string) => new HeadraceError('model_bad_config', `config.json: ${what}`)
