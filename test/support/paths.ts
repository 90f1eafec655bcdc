import { existsSync, readdirSync } from 'node:fs'
import { dirname, join } from 'node:path'

/** The repository's root, where the lock file is: tests run compiled, at another depth than their source. */
export const root = (() => {
  let folder = import.meta.dirname
  while (!existsSync(join(folder, 'package-lock.json'))) folder = dirname(folder)
  return folder
})()

export const fixture = (name: string): string => join(root, 'test', 'fixtures', name)
/** The model folders that came with numbers of Hugging Face transformers. */
export const fixtureNames: readonly string[] = readdirSync(fixture('.')).filter((name) =>
  existsSync(fixture(join(name, 'expected.json'))),
)

/** Options of some that llama.cpp's converter drops: as a GGUF file these would be other models. */
const NOT_IN_GGUF: readonly string[] = [
  'gemma2-scalar', // query_pre_attn_scalar, and a logit cap of none
  'gemma3-old', // query_pre_attn_scalar
  'llama-bias-mqa', // hidden_act
  'llama-dynamic', // dynamic scaling
  'qwen2-sliding', // sliding_window
  'qwen3-moe-mixed', // norm_topk_prob
  'qwen3-yarn', // mscale and truncate
  'smollm3-list', // no_rope_layers
]
export const ggufFixtureNames: readonly string[] = fixtureNames.filter((name) => !NOT_IN_GGUF.includes(name))

export const bundledModel: string = join(root, 'deploy', 'model', 'logbook-7m')

/** Tiny models with the numbers of Hugging Face transformers, one or more an architecture. */
export const FIXTURES: readonly string[] = readdirSync(fixture('')).filter((name) =>
  existsSync(join(fixture(name), 'expected.json')),
)
