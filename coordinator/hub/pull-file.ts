import { createHash } from 'node:crypto'
import { chmod, open, readFile, rename, rm, stat } from 'node:fs/promises'
import { HeadraceError } from '../../shared/errors.ts'
import { type FileHash, hashFile } from '../../shared/model-store/file-hashes.ts'
import type { ModelCache } from '../../shared/model-store/model-cache.ts'
import { Patience } from '../../shared/model-store/patience.ts'
import type { Hub, HubFile } from './hub.ts'
import { PassingFailure, type Patient, patiently } from './patiently.ts'

const SILENCE_SECONDS = 30
/** Files without a SHA-256 are small texts: they are read whole to be checked. */
const MOST_GIT_BYTES = 64 << 20

export interface PullFileDeps extends Patient {
  readonly hub: Hub
  readonly model: string
  readonly commit: string
  readonly cache: ModelCache
  /** Bytes of the file that are here. */
  readonly onBytes: (file: HubFile, bytes: number) => void
}

/**
 * One file of a repository into the cache, going on where an earlier attempt or process left off. What has come is hashed
 * from the disk before it is believed. @throws `model_tampered`, `hub_*`
 */
export async function pullFile(file: HubFile, of: PullFileDeps): Promise<FileHash> {
  const { cache } = of
  const partial = partialOf(cache, file)
  const kept = await sizeOf(partial)
  let hashed = await fetchAndHash(file, partial, of)
  if (hashed === undefined && kept > 0) hashed = await fetchAndHash(file, partial, of) // what was kept was bad: anew
  if (hashed === undefined)
    throw new HeadraceError('model_tampered', `the bytes that came for ${file.name} are not those of its hash`)
  await chmod(partial, 0o444)
  await rename(partial, cache.blobPath(hashed.sha256))
  return hashed
}

export const partialOf = (cache: ModelCache, { sha256, gitSha1 }: HubFile): string =>
  cache.partialPath(sha256 ?? `git-${gitSha1}`, 'prefix')

/** @throws if nothing says what the file should be */
export function checkNamed({ name, size, sha256, gitSha1 }: HubFile): void {
  if (sha256 === undefined && !/^[0-9a-f]{40}$/.test(gitSha1 ?? ''))
    throw new HeadraceError('model_bad_manifest', `the hub names no hash of ${name}`)
  if (sha256 === undefined && size > MOST_GIT_BYTES)
    throw new HeadraceError('model_bad_manifest', `the hub names no SHA-256 of ${name}, which has ${size} bytes`)
}

/** `undefined`, and nothing kept, if the bytes are wrong. */
async function fetchAndHash(file: HubFile, partial: string, of: PullFileDeps): Promise<FileHash | undefined> {
  await patiently(() => append(file, partial, of), of)
  const hashed = await hashFile(partial, of.signal)
  const right = file.sha256 === undefined ? await isGitBlob(partial, file) : hashed.sha256 === file.sha256
  if (right) return hashed
  await rm(partial)
  return undefined
}

async function append(file: HubFile, partial: string, of: PullFileDeps): Promise<void> {
  const { hub, model, commit, signal, onBytes } = of
  const handle = await open(partial, 'a+')
  const patience = new Patience(SILENCE_SECONDS, `the hub, sending ${file.name}`, signal)
  let progressed = false
  try {
    const { size } = await handle.stat()
    if (size === file.size) return
    const { start, body } = await hub.open(model, commit, file, size < file.size ? size : 0, patience.signal)
    if (start !== size) await handle.truncate(start)
    let at = start
    for await (const part of body) {
      patience.progress()
      if (at + part.length > file.size)
        throw new HeadraceError('model_tampered', `the hub sends more of ${file.name} than its ${file.size} bytes`)
      await handle.appendFile(part)
      at += part.length
      progressed = true
      onBytes(file, at)
    }
    if (at < file.size) throw new PassingFailure(`${file.name} ended after ${at} of ${file.size} bytes`, { progressed })
  } catch (thrown) {
    signal.throwIfAborted()
    if (thrown instanceof HeadraceError && thrown.code !== 'link_closed') throw thrown
    if (isDiskError(thrown)) throw new HeadraceError('cache_failed', `${partial} cannot be written`, { cause: thrown })
    throw new PassingFailure(`${file.name} broke off`, { cause: thrown, progressed })
  } finally {
    patience.end()
    await handle.close()
  }
}

/** Of the file system: what networks report has other codes. */
const isDiskError = (thrown: unknown): boolean =>
  ['ENOSPC', 'EIO', 'EDQUOT', 'EROFS'].includes((thrown as NodeJS.ErrnoException).code ?? '')

/** Git names a blob by the SHA-1 of a header and its bytes. */
async function isGitBlob(path: string, { size, gitSha1 }: HubFile): Promise<boolean> {
  const hash = createHash('sha1')
    .update(`blob ${size}\0`)
    .update(await readFile(path))
  return hash.digest('hex') === gitSha1
}

const sizeOf = async (path: string): Promise<number> => (await stat(path).catch(() => undefined))?.size ?? 0
