import { existsSync, readdirSync } from 'node:fs'
import { dirname, join } from 'node:path'

/** The repository's root, where the lock file is: tests run compiled, at another depth than their source. */
export const root = (() => {
  let folder = import.meta.dirname
  while (!existsSync(join(folder, 'package-lock.json'))) folder = dirname(folder)
  return folder
})()

export const fixture = (name: string): string => join(root, 'test', 'fixtures', name)
export const bundledModel: string = join(root, 'deploy', 'model', 'logbook-7m')

/** Tiny models with the numbers of Hugging Face transformers, one or more an architecture. */
export const FIXTURES: readonly string[] = readdirSync(fixture('')).filter((name) =>
  existsSync(join(fixture(name), 'expected.json')),
)
