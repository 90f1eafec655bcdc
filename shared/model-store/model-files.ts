import { readdir, readFile, realpath, stat } from 'node:fs/promises'
import { basename, dirname, join } from 'node:path'
import { HeadraceError } from '../errors.ts'
import { splitName } from '../gguf/names.ts'
import { shardsOf, WEIGHT_INDEX, WHOLE_WEIGHTS } from '../weight-files.ts'

/**
 * `config`, `tokenizer` and `weights` decide a model's numbers and tokens, and so its fingerprint; `other` files say how
 * it is talked to (chat template, which tokens end an answer).
 */
export const FILE_ROLES = ['config', 'weights', 'tokenizer', 'other'] as const
type FileRole = (typeof FILE_ROLES)[number]

export interface ModelFile {
  /** A plain file name. */
  readonly name: string
  readonly role: FileRole
}

export interface ModelFiles {
  readonly folder: string
  /** Sorted by name. */
  readonly files: readonly ModelFile[]
  /** The file that the model is opened by; absent: its folder. */
  readonly entry?: string
}

const ROLES: Readonly<Record<string, FileRole>> = {
  'config.json': 'config',
  'tokenizer.json': 'tokenizer',
  'tokenizer_config.json': 'other',
  'generation_config.json': 'other',
  'chat_template.jinja': 'other',
}
const MOST_INDEX_BYTES = 64 << 20

/** The GGUF files that belong together: the splits of one model have a name in common. */
export const splitsOf = (entry: string, names: readonly string[]): string[] =>
  names.filter((name) => name === entry || sameModel(splitName(entry)?.model, splitName(name)?.model))

const sameModel = (one: string | undefined, other: string | undefined): boolean => one !== undefined && one === other

/** The files that make the model at `path`: a Hugging Face folder, or a GGUF file with its splits. */
export async function modelFiles(path: string): Promise<ModelFiles> {
  const found = await stat(path).catch(() => undefined) // unreadable is as good as absent
  if (found === undefined) throw new HeadraceError('model_incomplete', `there is no model at ${path}`)
  const folder = await realpath(found.isFile() ? dirname(path) : path)
  const names = await readdir(folder)
  if (found.isFile()) {
    const entry = basename(path)
    return { folder, files: ggufFiles(entry, names), entry }
  }
  return { folder, files: await folderFiles(names, (name) => readIndex(join(folder, name))) }
}

export const ggufFiles = (entry: string, names: readonly string[]): ModelFile[] =>
  splitsOf(entry, [...names].sort()).map((name) => ({ name, role: 'weights' }))

/**
 * Of the names in a Hugging Face folder those that Headrace reads. One whole file of weights is read before shards; which
 * shards there are says the index alone, because other formats' files may lie beside them.
 */
export async function folderFiles(
  names: readonly string[],
  read: (name: string) => Promise<string>,
): Promise<ModelFile[]> {
  const files: ModelFile[] = names.flatMap((name) => (Object.hasOwn(ROLES, name) ? [{ name, role: ROLES[name]! }] : []))
  if (names.includes(WHOLE_WEIGHTS)) files.push({ name: WHOLE_WEIGHTS, role: 'weights' })
  else if (names.includes(WEIGHT_INDEX)) {
    const shards = shardsOf(await read(WEIGHT_INDEX), WEIGHT_INDEX)
    const missing = shards.find((name) => !names.includes(name))
    if (missing !== undefined) throw new HeadraceError('model_incomplete', `the model has no ${missing}`)
    files.push({ name: WEIGHT_INDEX, role: 'other' }, ...shards.map((name) => ({ name, role: 'weights' as const })))
  }
  return files.sort((a, b) => (a.name < b.name ? -1 : 1))
}

async function readIndex(path: string): Promise<string> {
  const { size } = await stat(path)
  if (size > MOST_INDEX_BYTES) throw new HeadraceError('model_bad_weights', `${path} has ${size} bytes`)
  return readFile(path, 'utf8')
}

export const modelPath = (folder: string, entry: string | undefined): string =>
  entry === undefined ? folder : join(folder, entry)
