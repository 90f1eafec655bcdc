import { randomUUID } from 'node:crypto'
import { existsSync } from 'node:fs'
import { mkdir, rename, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { type GgufType, writeGguf } from './gguf.ts'
import { type Dtype, writeFolder } from './huggingface.ts'
import { PRESET_NAMES, PRESETS, type PresetName } from './presets.ts'

/** Counts up when what the writers write changes: what older ones left is not used again. */
const VERSION = 1
const SEED = 1

const CACHE = join(tmpdir(), 'headrace-bench')

/** The Hugging Face folder of a preset, written the first time. Both types hold the same values. */
export const presetFolder = (preset: PresetName, dtype: Dtype = 'BF16'): Promise<string> =>
  cached(presetName(preset, dtype), (path) => writeFolder(path, PRESETS[preset], SEED, dtype))

/** A folder as it is, or that of the preset of this name. */
export const modelFolder = async (nameOrFolder: string): Promise<string> =>
  PRESET_NAMES.some((name) => name === nameOrFolder) ? presetFolder(nameOrFolder as PresetName) : nameOrFolder

/** The GGUF file of a preset with the same values, but for what `Q8_0` rounds off. */
export const presetGguf = (preset: PresetName, type: GgufType): Promise<string> =>
  cached(presetName(preset, `${type}.gguf`), (path) => writeGguf(path, PRESETS[preset], SEED, type))

/** What something made of a preset is called in the cache. */
export const presetName = (preset: PresetName, what: string): string => `${preset}-${SEED}-v${VERSION}-${what}`

/** `name` in the cache folder: complete, whoever else makes it meanwhile, and however often one was interrupted. */
export async function cached(name: string, write: (path: string) => Promise<void>, folder = CACHE): Promise<string> {
  const path = join(folder, name)
  if (existsSync(path)) return path
  await mkdir(folder, { recursive: true })
  const unfinished = `${path}.${randomUUID()}`
  try {
    await write(unfinished)
    await rename(unfinished, path).catch((thrown: unknown) => {
      if (!existsSync(path)) throw thrown // another process was faster
    })
  } finally {
    await rm(unfinished, { recursive: true, force: true })
  }
  return path
}
