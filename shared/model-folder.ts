import { createHash } from 'node:crypto'
import { createReadStream } from 'node:fs'
import { readFile, stat } from 'node:fs/promises'
import { join } from 'node:path'
import { z } from 'zod'
import { type ErrorCode, HeadraceError } from './errors.ts'
import { parseEosTokens, parseModelConfig } from './model-config.ts'
import type { ModelShape } from './model-shape.ts'

/** The files of a Hugging Face folder that make the model what it is, as paths. */
export interface ModelFolder {
  readonly config: string
  /** The safetensors files, sorted by name: one, or the shards that the index names. */
  readonly weights: readonly string[]
  /** Workers compute without one. */
  readonly tokenizer?: string
}

const CONFIG = 'config.json'
const WEIGHTS = 'model.safetensors'
const WEIGHT_INDEX = 'model.safetensors.index.json'
const TOKENIZER = 'tokenizer.json'
const TOKENIZER_CONFIG = 'tokenizer_config.json'

/** Larger JSON than this is no configuration; an index of a thousand layers stays far below. */
const MAX_JSON_BYTES = 64 << 20
const MAX_SHARDS = 4096

export async function locateModel(folder: string): Promise<ModelFolder> {
  const config = await needed(folder, CONFIG)
  const weights = await locateWeights(folder)
  const tokenizer = await present(folder, TOKENIZER)
  return tokenizer === undefined ? { config, weights } : { config, weights, tokenizer }
}

/** The tokenizer's files, for who turns text into tokens: `tokenizer.json` must be there. */
export async function locateTokenizer(folder: string): Promise<{ tokenizer: string; tokenizerConfig?: string }> {
  const tokenizer = await needed(folder, TOKENIZER)
  const tokenizerConfig = await present(folder, TOKENIZER_CONFIG)
  return tokenizerConfig === undefined ? { tokenizer } : { tokenizer, tokenizerConfig }
}

export async function readModelShape(folder: string): Promise<ModelShape> {
  return parseModelConfig(await readJson(await needed(folder, CONFIG), 'model_bad_config'))
}

export async function readEosTokens(folder: string): Promise<number[]> {
  const config = await readJson(await needed(folder, CONFIG), 'model_bad_config')
  const generation = await present(folder, 'generation_config.json')
  return parseEosTokens(config, generation && (await readJson(generation, 'model_bad_config')))
}

const templateSchema = z.looseObject({
  chat_template: z
    .union([z.string(), z.array(z.looseObject({ name: z.string(), template: z.string() }))])
    .nullish()
    .transform((t) => (Array.isArray(t) ? t.find(({ name }) => name === 'default')?.template : t)),
})

/** The Jinja source of the chat template: its own file, else the tokenizer's configuration, else none. */
export async function readChatTemplate(folder: string): Promise<string | undefined> {
  const own = await present(folder, 'chat_template.jinja')
  if (own !== undefined) return readText(own, 'model_bad_tokenizer')
  const tokenizerConfig = await present(folder, TOKENIZER_CONFIG)
  if (tokenizerConfig === undefined) return undefined
  const parsed = templateSchema.safeParse(await readJson(tokenizerConfig, 'model_bad_tokenizer'))
  if (!parsed.success) throw new HeadraceError('model_bad_tokenizer', `${tokenizerConfig}: chat_template is malformed`)
  return parsed.data.chat_template ?? undefined
}

/**
 * Hex SHA-256 that binds a KV block to its model: over the files that decide its numbers and tokens, each with its role
 * and size before it so that no two folders collide by moving a border. The folder's own path does not enter.
 */
export async function modelFingerprint(folder: string): Promise<string> {
  const model = await locateModel(folder)
  const files = [
    { role: 'config', path: model.config },
    ...model.weights.map((path) => ({ role: 'weights', path })),
    ...(model.tokenizer === undefined ? [] : [{ role: 'tokenizer', path: model.tokenizer }]),
  ]
  const hash = createHash('sha256')
  for (const { role, path } of files) {
    const { size } = await stat(path)
    hash.update(`${role} ${size}\n`)
    for await (const piece of createReadStream(path, { highWaterMark: 1 << 20 })) hash.update(piece)
  }
  return hash.digest('hex')
}

async function locateWeights(folder: string): Promise<string[]> {
  const whole = await present(folder, WEIGHTS)
  if (whole !== undefined) return [whole]
  const index = await present(folder, WEIGHT_INDEX)
  if (index === undefined) throw missing(folder, WEIGHTS)
  const parsed = indexSchema.safeParse(await readJson(index, 'model_bad_weights'))
  if (!parsed.success) throw new HeadraceError('model_bad_weights', `${index}: ${parsed.error.issues[0]?.message}`)
  const names = [...new Set(Object.values(parsed.data.weight_map))].sort()
  if (names.length === 0 || names.length > MAX_SHARDS)
    throw new HeadraceError('model_bad_weights', `${index} names ${names.length} files`)
  return Promise.all(names.map((name) => needed(folder, name)))
}

/** A shard is a plain file name: an index must not lead out of its folder. */
const shardName = z.string().regex(/^[A-Za-z0-9_][\w.-]*\.safetensors$/, 'a shard is not a plain .safetensors name')
const indexSchema = z.looseObject({ weight_map: z.record(z.string(), shardName) })

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
