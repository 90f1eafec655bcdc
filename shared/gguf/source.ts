import { open } from 'node:fs/promises'
import type { ModelFiles, ModelSource } from '../model-source.ts'
import { configOf } from './config.ts'
import { malformed } from './cursor.ts'
import { headerOf, partsOf, readExactly } from './file.ts'
import type { GgufHeader, GgufTensor } from './header.ts'
import { Metadata } from './metadata.ts'
import type { FrequencyFactors } from './rope.ts'
import { tokenizerConfigOf, tokenizerOf } from './tokenizer.ts'
import { endTokens } from './vocabulary.ts'

/** A model in one GGUF file, or in several of which `path` is the first. */
export class GgufSource implements ModelSource {
  readonly #path: string

  constructor(path: string) {
    this.#path = path
  }

  async files(): Promise<ModelFiles> {
    const { files } = await partsOf(this.#path)
    return { weights: files }
  }

  async config(): Promise<unknown> {
    const { first, files } = await partsOf(this.#path)
    const headers = [first]
    for (const file of files.slice(1)) headers.push(await headerOf(file))
    const metadata = new Metadata(first.metadata, this.#path)
    const tensors = new Map(headers.flatMap((header) => [...header.tensors]))
    return configOf({ metadata, tensors, factors: await frequencyFactors(headers) })
  }

  async generationConfig(): Promise<unknown> {
    return { eos_token_id: endTokens(await this.#metadata()) }
  }

  async tokenizer(): Promise<object> {
    return tokenizerOf(await this.#metadata())
  }

  async tokenizerConfig(): Promise<object> {
    return tokenizerConfigOf(await this.#metadata())
  }

  async chatTemplate(): Promise<string | undefined> {
    return (await this.#metadata()).text('tokenizer.chat_template')
  }

  async #metadata(): Promise<Metadata> {
    const { metadata } = await headerOf(this.#path)
    return new Metadata(metadata, this.#path)
  }
}

async function frequencyFactors(headers: readonly GgufHeader[]): Promise<FrequencyFactors> {
  const find = async (key: keyof FrequencyFactors, name: string): Promise<FrequencyFactors> => {
    const header = headers.find(({ tensors }) => tensors.has(name))
    const tensor = header?.tensors.get(name)
    return header && tensor ? { [key]: await readFactors(header.file, name, tensor) } : {}
  }
  return {
    ...(await find('scaled', 'rope_freqs.weight')),
    ...(await find('long', 'rope_factors_long.weight')),
    ...(await find('short', 'rope_factors_short.weight')),
  }
}

/** One number for every pair of a head. */
const MAX_FACTORS = 1024

async function readFactors(file: string, name: string, { type, dims, start }: GgufTensor): Promise<Float32Array> {
  const count = dims[0]!
  if (type !== 'F32' || dims.length !== 1 || count > MAX_FACTORS) throw malformed(file, `${name} is ${type} [${dims}]`)
  const bytes = new Uint8Array(count * Float32Array.BYTES_PER_ELEMENT)
  const handle = await open(file)
  try {
    await readExactly(handle, bytes, start, file)
  } finally {
    await handle.close()
  }
  return new Float32Array(bytes.buffer)
}
