import { readFile, stat } from 'node:fs/promises'
import { join } from 'node:path'
import { z } from 'zod'
import { type ErrorCode, HeadraceError } from './errors.ts'
import type { ModelFiles, ModelSource } from './model-source.ts'
import { safeParse } from './safe-parse.ts'
import { shardsOf, WEIGHT_INDEX, WHOLE_WEIGHTS } from './weight-files.ts'

const CONFIG = 'config.json'
const GENERATION_CONFIG = 'generation_config.json'
const TOKENIZER = 'tokenizer.json'
const TOKENIZER_CONFIG = 'tokenizer_config.json'

/** Larger JSON than this is no configuration; an index of a thousand layers stays far below. */
const MAX_JSON_BYTES = 64 << 20

/** A model in a folder as Hugging Face's hub has them. A file that must be there and is not is `model_incomplete`. */
export class HuggingFaceFolder implements ModelSource {
  readonly #folder: string

  constructor(folder: string) {
    this.#folder = folder
  }

  async files(): Promise<ModelFiles> {
    const config = await needed(this.#folder, CONFIG)
    const weights = await locateWeights(this.#folder)
    const tokenizer = await present(this.#folder, TOKENIZER)
    return tokenizer === undefined ? { config, weights } : { config, weights, tokenizer }
  }

  async config(): Promise<unknown> {
    return readJson(await needed(this.#folder, CONFIG), 'model_bad_config')
  }

  async generationConfig(): Promise<unknown> {
    const path = await present(this.#folder, GENERATION_CONFIG)
    return path && readJson(path, 'model_bad_config')
  }

  async tokenizer(): Promise<object> {
    return readObject(await needed(this.#folder, TOKENIZER))
  }

  async tokenizerConfig(): Promise<object> {
    const path = await present(this.#folder, TOKENIZER_CONFIG)
    return path === undefined ? {} : readObject(path)
  }

  /** Its own file, else the tokenizer's configuration, else none. */
  async chatTemplate(): Promise<string | undefined> {
    const own = await present(this.#folder, 'chat_template.jinja')
    if (own !== undefined) return readText(own, 'model_bad_tokenizer')
    const parsed = safeParse(templateSchema, await this.tokenizerConfig())
    if (!parsed.success)
      throw new HeadraceError('model_bad_tokenizer', `${this.#folder}/${TOKENIZER_CONFIG}: chat_template is malformed`)
    return parsed.data.chat_template ?? undefined
  }
}

const templateSchema = z.looseObject({
  chat_template: z
    .union([z.string(), z.array(z.looseObject({ name: z.string(), template: z.string() }))])
    .nullish()
    .transform((t) => (Array.isArray(t) ? t.find(({ name }) => name === 'default')?.template : t)),
})

async function locateWeights(folder: string): Promise<string[]> {
  const whole = await present(folder, WHOLE_WEIGHTS)
  if (whole !== undefined) return [whole]
  const index = await present(folder, WEIGHT_INDEX)
  if (index === undefined) throw missing(folder, WHOLE_WEIGHTS)
  const names = shardsOf(await readText(index, 'model_bad_weights'), index)
  return Promise.all(names.map((name) => needed(folder, name)))
}

async function present(folder: string, name: string): Promise<string | undefined> {
  const path = join(folder, name)
  const found = await stat(path).catch(() => undefined) // unreadable is treated as absent: `needed` then names it
  return found?.isFile() ? path : undefined
}

async function needed(folder: string, name: string): Promise<string> {
  const path = await present(folder, name)
  if (path === undefined) throw missing(folder, name)
  return path
}

const missing = (folder: string, file: string) =>
  new HeadraceError('model_incomplete', `${folder} has no ${file}`, { details: { file } })

async function readText(path: string, code: ErrorCode): Promise<string> {
  const { size } = await stat(path)
  if (size > MAX_JSON_BYTES) throw new HeadraceError(code, `${path} has ${size} bytes, more than ${MAX_JSON_BYTES}`)
  return readFile(path, 'utf8')
}

async function readJson(path: string, code: ErrorCode): Promise<unknown> {
  const text = await readText(path, code)
  try {
    return JSON.parse(text)
  } catch (cause) {
    throw new HeadraceError(code, `${path} is not JSON`, { cause })
  }
}

async function readObject(path: string): Promise<object> {
  const value = await readJson(path, 'model_bad_tokenizer')
  if (typeof value === 'object' && value !== null && !Array.isArray(value)) return value
  throw new HeadraceError('model_bad_tokenizer', `${path} is not a JSON object`)
}
