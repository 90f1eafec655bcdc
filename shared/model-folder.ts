import { isGguf } from './gguf/names.ts'
import { GgufSource } from './gguf/source.ts'
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
