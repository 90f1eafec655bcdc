import { HeadraceError } from '../errors.ts'
import type { GgufValue } from './values.ts'

/** The metadata of a file, by key and kind. A value of another kind is `model_bad_config`, by name. */
export class Metadata {
  readonly file: string
  readonly #values: ReadonlyMap<string, GgufValue>

  constructor(values: ReadonlyMap<string, GgufValue>, file: string) {
    this.#values = values
    this.file = file
  }

  has(key: string): boolean {
    return this.#values.has(key)
  }

  isList(key: string): boolean {
    return typeof this.#values.get(key) === 'object'
  }

  text(key: string): string | undefined {
    const value = this.#values.get(key)
    if (value !== undefined && typeof value !== 'string') throw this.bad(`${key} is no text`)
    return value
  }

  flag(key: string): boolean | undefined {
    const value = this.#values.get(key)
    if (value !== undefined && typeof value !== 'boolean') throw this.bad(`${key} is neither true nor false`)
    return value
  }

  /** Some converters write what may differ from layer to layer as an array of equal numbers. */
  number(key: string): number | undefined {
    const value = this.#values.get(key)
    if (value === undefined || typeof value === 'number') return value
    const values = this.numbers(key) ?? []
    const [first] = values
    if (first === undefined || values.some((other) => other !== first))
      throw new HeadraceError('model_unsupported', `${this.file}: ${key} differs from layer to layer`)
    return first
  }

  neededNumber(key: string): number {
    const value = this.number(key)
    if (value === undefined) throw this.bad(`it has no ${key}`)
    return value
  }

  numbers(key: string): number[] | undefined {
    const value = this.#values.get(key)
    if (value === undefined) return undefined
    if (typeof value !== 'object' || value.kind !== 'numbers') throw this.bad(`${key} is no list of numbers`)
    return Array.from(value.values)
  }

  texts(key: string): string[] | undefined {
    const value = this.#values.get(key)
    if (value === undefined) return undefined
    if (typeof value !== 'object' || value.kind !== 'texts') throw this.bad(`${key} is no list of texts`)
    return value.decode()
  }

  bad(what: string): HeadraceError {
    return new HeadraceError('model_bad_config', `${this.file}: ${what}`)
  }
}
