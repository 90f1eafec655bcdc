/** How GGUF files are called. */

export const isGguf = (path: string): boolean => path.endsWith('.gguf')

/** A name that cannot lead out of its folder: for names that somebody else gave. */
export const isPlainGguf = (name: string): boolean => /^(?!\.)[\w.+-]+$/.test(name) && isGguf(name)

/** One file of a model that is split: which of how many, and what all of their names begin with. */
interface SplitName {
  readonly model: string
  readonly part: number
  readonly count: number
}

/** Absent where the name, `NAME-00001-of-00003.gguf`, is not that of a part. */
export function splitName(name: string): SplitName | undefined {
  const found = /^(.*)-(\d{5})-of-(\d{5})\.gguf$/.exec(name)
  return found === null ? undefined : { model: found[1]!, part: Number(found[2]), count: Number(found[3]) }
}

/** What all parts of a model are called, from the first on. */
export function splitNames({ model, count }: SplitName): string[] {
  const digits = (number: number): string => String(number).padStart(5, '0')
  return Array.from({ length: count }, (_, i) => `${model}-${digits(i + 1)}-of-${digits(count)}.gguf`)
}
