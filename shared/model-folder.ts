import { createHash } from 'node:crypto'
import { createReadStream } from 'node:fs'
import { stat } from 'node:fs/promises'
import { GgufSource, isGguf } from './gguf/source.ts'
import { HuggingFaceFolder } from './huggingface-folder.ts'
import { parseEosTokens, parseModelConfig } from './model-config.ts'
import type { ModelShape } from './model-shape.ts'
import type { ModelFiles, ModelSource } from './model-source.ts'

/** A path of a model is a Hugging Face folder, or a GGUF file: of several the first. */
const sourceOf = (path: string): ModelSource => (isGguf(path) ? new GgufSource(path) : new HuggingFaceFolder(path))

export const locateModel = (path: string): Promise<ModelFiles> => sourceOf(path).files()

export async function readModelShape(path: string): Promise<ModelShape> {
  return parseModelConfig(await sourceOf(path).config())
}

export async function readEosTokens(path: string): Promise<number[]> {
  const source = sourceOf(path)
  return parseEosTokens(await source.config(), await source.generationConfig())
}

/** `tokenizer.json`'s object, for who turns text into tokens. */
export const readTokenizer = (path: string): Promise<object> => sourceOf(path).tokenizer()

export const readTokenizerConfig = (path: string): Promise<object> => sourceOf(path).tokenizerConfig()

/** The Jinja source of the chat template, if the model has one. */
export const readChatTemplate = (path: string): Promise<string | undefined> => sourceOf(path).chatTemplate()

/**
 * Hex SHA-256 that binds a KV block to its model: over the files that decide its numbers and tokens, each with its role
 * and size before it so that no two models collide by moving a border. The path does not enter.
 */
export async function modelFingerprint(path: string): Promise<string> {
  const { config, weights, tokenizer } = await locateModel(path)
  const files = [
    ...(config === undefined ? [] : [{ role: 'config', path: config }]),
    ...weights.map((part) => ({ role: 'weights', path: part })),
    ...(tokenizer === undefined ? [] : [{ role: 'tokenizer', path: tokenizer }]),
  ]
  const hash = createHash('sha256')
  for (const { role, path } of files) {
    const { size } = await stat(path)
    hash.update(`${role} ${size}\n`)
    for await (const piece of createReadStream(path, { highWaterMark: 1 << 20 })) hash.update(piece)
  }
  return hash.digest('hex')
}
