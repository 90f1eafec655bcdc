import { type ModelShape, parameterCount } from '../../../shared/model-shape.ts'
import { llamaShape } from '../../support/llama-shape.ts'

/** Shapes that benchmarks run at. Weights are random: speed does not depend on what they say. */

const COMMON = { contextLength: 131_072 } as const
const LLAMA3_ROPE = { kind: 'llama3', theta: 500_000, lowFreqFactor: 1, highFreqFactor: 4 } as const

export const PRESETS = {
  /** A small model with many thin layers, of the size of SmolLM-135M. */
  smol135: llamaShape({
    ...COMMON,
    layers: 30,
    hidden: 576,
    heads: 9,
    kvHeads: 3,
    headDim: 64,
    ffn: 1536,
    vocab: 49_152,
    tiedHead: true,
  }),
  /** Matrices of a billion-parameter model, but only four layers of them. */
  wide: llamaShape({
    ...COMMON,
    layers: 4,
    hidden: 2048,
    heads: 32,
    kvHeads: 8,
    headDim: 64,
    ffn: 8192,
    vocab: 32_000,
    tiedHead: true,
  }),
  /** Llama-3.2-1B. */
  llama1b: llamaShape(
    {
      ...COMMON,
      layers: 16,
      hidden: 2048,
      heads: 32,
      kvHeads: 8,
      headDim: 64,
      ffn: 8192,
      vocab: 128_256,
      tiedHead: true,
    },
    { ...LLAMA3_ROPE, factor: 32, originalContextLength: 8192 },
  ),
  /** Llama-3.1-8B. */
  llama8b: llamaShape(
    {
      ...COMMON,
      layers: 32,
      hidden: 4096,
      heads: 32,
      kvHeads: 8,
      headDim: 128,
      ffn: 14_336,
      vocab: 128_256,
      tiedHead: false,
    },
    { ...LLAMA3_ROPE, factor: 8, originalContextLength: 8192 },
  ),
} as const satisfies Record<string, ModelShape>
export type PresetName = keyof typeof PRESETS
export const PRESET_NAMES = Object.keys(PRESETS) as PresetName[]

export function presetText(name: PresetName): string {
  const { layers, hidden, heads, kvHeads, headDim, ffn, vocab } = PRESETS[name]
  const size = `${(parameterCount(PRESETS[name]) / 1e6).toFixed(0)} M parameters`
  const attention = `${heads} heads of ${headDim} on ${kvHeads} KV heads`
  return `${name}: ${size}, ${layers} layers of ${hidden}, ${attention}, FFN ${ffn}, vocabulary ${vocab}, random weights`
}
