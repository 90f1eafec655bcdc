import { HeadraceError } from '../errors.ts'
import type { Metadata } from './metadata.ts'
import { shortestDecimal } from './values.ts'

/** How many times slower each rotated pair turns than the base says. Absent: not in the file. */
export interface FrequencyFactors {
  readonly scaled?: Float32Array
  readonly long?: Float32Array
  readonly short?: Float32Array
}

export interface RopeFields {
  number(key: string): number | undefined
  text(key: string): string | undefined
  readonly factors: FrequencyFactors
  /** Rotated dimensions of a head. */
  readonly dim: number
  readonly metadata: Metadata
}

/** The `rope_parameters` of a `config.json` from the `rope.*` keys and the factors that stand in tensors. */
export function ropeScaling(fields: RopeFields): Record<string, unknown> {
  const { number, text, factors, metadata } = fields
  const rope_theta = number('rope.freq_base') ?? 10_000
  const factor = number('rope.scaling.factor') ?? number('rope.scale_linear')
  const original = number('rope.scaling.original_context_length')
  if (factors.scaled !== undefined) return llama3Scaling(factors.scaled, fields.dim, rope_theta, metadata)
  if (factors.long !== undefined || factors.short !== undefined)
    return {
      rope_type: 'longrope',
      rope_theta,
      long_factor: Array.from(factors.long ?? [], shortestDecimal),
      short_factor: Array.from(factors.short ?? [], shortestDecimal),
      original_max_position_embeddings: original,
    }
  const kind = text('rope.scaling.type') ?? (factor === undefined || factor === 1 ? 'none' : 'linear')
  switch (kind) {
    case 'none':
      return { rope_type: 'default', rope_theta }
    case 'linear':
      return { rope_type: 'linear', rope_theta, factor: factor ?? 1 }
    case 'yarn':
      return {
        rope_type: 'yarn',
        rope_theta,
        factor,
        original_max_position_embeddings: original,
        ...given('attention_factor', number('rope.scaling.yarn_attn_factor') ?? number('rope.scaling.attn_factor')),
        ...given('beta_fast', number('rope.scaling.yarn_beta_fast')),
        ...given('beta_slow', number('rope.scaling.yarn_beta_slow')),
      }
    default:
      throw new HeadraceError('model_unsupported', `${metadata.file}: rope.scaling.type = ${kind.slice(0, 100)}`)
  }
}

const given = (key: string, value: number | undefined) => (value === undefined ? {} : { [key]: value })

/**
 * Llama 3.1's scaling, which a file holds as its outcome only. With the wavelength w of a pair and the original context
 * c, the blend between the two is `1 / f = (1 - s) / factor + s`, where `s = (c / w - low) / (high - low)`: a straight
 * line over 1 / w. Scaling c, low and high together changes nothing, so low is 1, and two pairs on the line give the
 * rest. What comes out must reproduce all factors, else the file means something else and is refused.
 */
function llama3Scaling(factors: Float32Array, dim: number, theta: number, metadata: Metadata): Record<string, unknown> {
  const refused = () =>
    new HeadraceError('model_unsupported', `${metadata.file}: rope_freqs.weight does not scale as Llama 3.1 does`)
  if (factors.length !== dim / 2) throw refused()
  const factor = shortestDecimal(factors.reduce((most, f) => Math.max(most, f), 1))
  if (factor === 1) return { rope_type: 'default', rope_theta: theta }
  const wavelengths = Array.from(factors, (_, i) => 2 * Math.PI * theta ** ((2 * i) / dim))
  for (const { high, context } of candidates(factors, wavelengths, factor)) {
    const kept = wavelengths.every((wave, i) => {
      const expected = llama3Factor(wave, factor, high, context)
      return Math.abs(factors[i]! / expected - 1) < 1e-5
    })
    if (kept && context >= 1)
      return {
        rope_type: 'llama3',
        rope_theta: theta,
        factor,
        low_freq_factor: 1,
        high_freq_factor: high,
        original_max_position_embeddings: context,
      }
  }
  throw refused()
}

interface Blend {
  readonly high: number
  readonly context: number
}

/** From two pairs on the line; else from one, or from the gap, with the usual ratio of four. */
function* candidates(factors: Float32Array, wavelengths: readonly number[], factor: number): Iterable<Blend> {
  const blends = wavelengths.flatMap((wave, i) => {
    const f = factors[i]!
    if (f < 1 + 1e-6 || f > factor * (1 - 1e-6)) return []
    return [{ frequency: 1 / wave, s: (1 / f - 1 / factor) / (1 - 1 / factor) }]
  })
  const [one, other] = [blends[0], blends.at(-1)]
  const usual = 4
  if (one !== undefined && other !== undefined && one !== other) {
    const slope = (one.s - other.s) / (one.frequency - other.frequency)
    const high = 1 - 1 / (one.s - slope * one.frequency)
    yield rounded(high, slope)
  }
  if (one !== undefined) yield rounded(usual, (one.s * (usual - 1) + 1) / one.frequency / (usual - 1))
  const firstSlow = wavelengths.find((_, i) => factors[i]! > factor * (1 - 1e-6))
  if (firstSlow !== undefined) yield { high: usual, context: Math.floor(firstSlow) }
}

/** Contexts are whole numbers, and the ratio of the two frequencies is a short one. */
function rounded(high: number, slope: number): Blend {
  const near = Number(high.toPrecision(4))
  return { high: near, context: Math.round(slope * (near - 1)) }
}

function llama3Factor(wave: number, factor: number, high: number, context: number): number {
  if (wave < context / high) return 1
  if (wave > context) return factor
  const s = (context / wave - 1) / (high - 1)
  return 1 / ((1 - s) / factor + s)
}
