import { readFile, rm, stat } from 'node:fs/promises'
import { HeadraceError } from '../../shared/errors.ts'
import { isPlainGguf } from '../../shared/gguf/names.ts'
import type { FileHash, FileHashes } from '../../shared/model-store/file-hashes.ts'
import { takeLock } from '../../shared/model-store/lock.ts'
import { manifestKey } from '../../shared/model-store/manifest.ts'
import type { ModelCache, ModelRecord } from '../../shared/model-store/model-cache.ts'
import { folderFiles, ggufFiles, type ModelFile, splitsOf } from '../../shared/model-store/model-files.ts'
import type { Hub, HubFile } from './hub.ts'
import { type Patient, patiently } from './patiently.ts'
import { checkNamed, partialOf, pullFile } from './pull-file.ts'

export interface PullDeps extends Patient {
  readonly hub: Hub
  readonly cache: ModelCache
  readonly hashes: FileHashes
  /** Bytes of a file that are here. */
  readonly onBytes: (file: HubFile, bytes: number) => void
  readonly onWait: () => void
}

export interface PullAsk {
  /** `ORG/NAME`. */
  readonly model: string
  readonly revision: string
  /** One GGUF file of a repository that has several. */
  readonly file: string | undefined
}

const MAIN = 'main'

/**
 * What Headrace needs of a model on a hub, into the cache, under its name. What is there already is not fetched again.
 * Returns the path that it is opened by.
 */
export async function pull(ask: PullAsk, of: PullDeps): Promise<string> {
  const { hub, cache, hashes, signal, clock } = of
  const { model, revision } = ask
  const commit = await patiently(() => hub.commitOf(model, revision, signal), of)
  const listed = await patiently(() => hub.list(model, commit, signal), of)
  await cache.open()
  const held = await Promise.all(listed.flatMap(({ sha256 }) => (sha256 === undefined ? [] : [cache.lease(sha256)])))
  const unlock = await takeLock(cache.lockPath(encodeURIComponent(model)), clock, signal, of.onWait)
  try {
    const hashed = new Map<string, FileHash>()
    const pullOne = async (name: string): Promise<FileHash> => {
      const file = listed.find((one) => one.name === name)!
      checkNamed(file)
      const found = (await kept(file, cache, hashes, signal)) ?? (await pullFile(file, { ...of, model, commit }))
      hashed.set(name, found)
      return found
    }
    const { files, entry } = await choose(ask, listed, async (index) => {
      const { sha256 } = await pullOne(index)
      return readFile(cache.blobPath(sha256), 'utf8')
    })
    const wanted = listed.filter(({ name }) => files.some((file) => file.name === name))
    await makeRoom(wanted, cache)
    for (const { name } of wanted) if (!hashed.has(name)) await pullOne(name)
    const contents = files.map(({ name }) => ({ name, sha256: hashed.get(name)!.sha256, size: hashed.get(name)!.size }))
    const path = await publish(ask, contents, entry, cache)
    // Linking has touched the files: so only now.
    for (const found of hashed.values()) await hashes.remember(cache.blobPath(found.sha256), found)
    return path
  } finally {
    await unlock()
    await Promise.all(held.map((release) => release()))
  }
}

async function publish(
  { model, revision, file }: PullAsk,
  files: ModelRecord['files'],
  entry: string | undefined,
  cache: ModelCache,
): Promise<string> {
  const key = manifestKey({ files })
  const path = await cache.publish(key, { files, ...(entry === undefined ? {} : { entry }) })
  const name = revision === MAIN ? model : `${model}@${revision}`
  await cache.name(name, key)
  if (file !== undefined) await cache.name(`${name}/${file}`, key)
  return path
}

/** A large file that is in the cache already, as part of whichever model. */
async function kept(file: HubFile, cache: ModelCache, hashes: FileHashes, signal: AbortSignal) {
  if (file.sha256 === undefined) return undefined
  const path = cache.blobPath(file.sha256)
  if ((await stat(path).catch(() => undefined)) === undefined) return undefined // not there
  const hashed = await hashes.of(path, signal)
  if (hashed.sha256 === file.sha256) return hashed
  await rm(path) // damaged, or changed by hand
  return undefined
}

async function makeRoom(wanted: readonly HubFile[], cache: ModelCache): Promise<void> {
  let bytes = 0
  const keep = new Set<string>()
  for (const file of wanted) {
    keep.add(file.sha256 ?? `git-${file.gitSha1}`)
    if (file.sha256 !== undefined && (await sizeOf(cache.blobPath(file.sha256))) !== undefined) continue
    bytes += file.size - ((await sizeOf(partialOf(cache, file))) ?? 0)
  }
  await cache.makeRoom(bytes, keep)
}

/** `undefined`: not there. */
const sizeOf = async (path: string): Promise<number | undefined> => (await stat(path).catch(() => undefined))?.size

/** Safetensors where there are any, else the one GGUF model, else the one that was asked for. */
async function choose(
  { model, file }: PullAsk,
  listed: readonly HubFile[],
  read: (name: string) => Promise<string>,
): Promise<{ files: ModelFile[]; entry: string | undefined }> {
  const names = listed.map(({ name }) => name)
  if (file === undefined) {
    const files = await folderFiles(names, read)
    if (files.some(({ role }) => role === 'weights')) return { files, entry: undefined }
  }
  const models = names.filter((name) => isPlainGguf(name) && splitsOf(name, names).sort()[0] === name)
  const entry = file ?? (models.length === 1 ? models[0] : undefined)
  if (entry !== undefined && isPlainGguf(entry) && names.includes(entry))
    return { files: ggufFiles(entry, names), entry }
  if (file !== undefined) throw new HeadraceError('hub_not_found', `${model} has no GGUF file ${file}`)
  if (models.length === 0)
    throw new HeadraceError('model_incomplete', `${model} has neither safetensors nor GGUF files at its top`)
  throw new HeadraceError('bad_config', `${model} has ${models.length} GGUF models; say --file ${models.join(' or ')}`)
}
