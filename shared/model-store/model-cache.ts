import { link, mkdir, readdir, readFile, rename, rm, stat, statfs, symlink, utimes, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { z } from 'zod'
import { HeadraceError } from '../errors.ts'
import { lease, leased } from './lock.ts'
import { modelPath } from './model-files.ts'

/**
 * Models on this machine's disk that can be fetched again:
 *
 *     blobs/SHA256        verified files, each once whatever models it belongs to
 *     partial/SHA256.*    files on their way
 *     models/KEY.json     which files make a model; its time is that of the last use
 *     models/KEY/NAME     the same as a folder, of links to the blobs
 *     names/NAME.json     what `--model ORG/NAME` is
 *     leases/KEY.PID      models in use, and files (by SHA-256) that are being fetched
 *     hashes/             of files anywhere, so that none is hashed twice
 */

const recordSchema = z.strictObject({
  entry: z.string().optional(),
  files: z.array(z.strictObject({ name: z.string(), sha256: z.string().length(64), size: z.number().int() })),
})
/** The files of a model in the cache; `entry` is the one that it is opened by, if not by its folder. */
export type ModelRecord = Readonly<z.infer<typeof recordSchema>>

const nameSchema = z.strictObject({ key: z.string() })

/** What the system may need of a disk that is otherwise full. */
const SPARE_DISK_BYTES = 256 << 20

export class ModelCache {
  readonly root: string
  readonly #budgetBytes: number

  /** @param budgetBytes most that blobs and files on their way may take together */
  constructor(root: string, budgetBytes = Number.POSITIVE_INFINITY) {
    this.root = root
    this.#budgetBytes = budgetBytes
  }

  blobPath = (sha256: string): string => join(this.root, 'blobs', sha256)
  partialPath = (sha256: string, kind: 'pieces' | 'prefix'): string => join(this.root, 'partial', `${sha256}.${kind}`)
  lockPath = (name: string): string => join(this.root, 'locks', name)

  async open(): Promise<void> {
    try {
      for (const folder of ['blobs', 'partial', 'models', 'names'])
        await mkdir(join(this.root, folder), { recursive: true })
    } catch (cause) {
      throw new HeadraceError('cache_failed', `the model cache ${this.root} cannot be written`, { cause })
    }
  }

  /** Makes the model's folder out of blobs that are all there. Returns the path that it is opened by. */
  async publish(key: string, record: ModelRecord): Promise<string> {
    const folder = this.#folderOf(key)
    const making = `${folder}.${process.pid}.part`
    await rm(making, { recursive: true, force: true })
    await mkdir(making)
    for (const { name, sha256 } of record.files) await linkOrPoint(this.blobPath(sha256), join(making, name))
    await rm(folder, { recursive: true, force: true })
    await rename(making, folder)
    await writeWhole(this.#recordOf(key), JSON.stringify(record))
    return modelPath(folder, record.entry)
  }

  /** The model's path, and its use noted, if it is there. */
  async find(key: string): Promise<string | undefined> {
    const record = await this.#read(key)
    if (record === undefined) return undefined
    const now = new Date()
    await utimes(this.#recordOf(key), now, now)
    return modelPath(this.#folderOf(key), record.entry)
  }

  /** The key of a model that was pulled under this name (`ORG/NAME` or `ORG/NAME@REVISION`). */
  async keyOf(name: string): Promise<string | undefined> {
    const text = await readFile(this.#nameFile(name), 'utf8').catch(() => undefined) // never pulled
    return text === undefined ? undefined : nameSchema.parse(JSON.parse(text)).key
  }

  async name(name: string, key: string): Promise<void> {
    await writeWhole(this.#nameFile(name), JSON.stringify({ key }))
  }

  /** While leased, a model is not evicted, nor a file that is on its way to one. Ends with the process at the latest. */
  async lease(key: string): Promise<() => Promise<void>> {
    return lease(join(this.root, 'leases'), key)
  }

  /**
   * Makes sure that `bytes` more fit the budget and the disk: files of broken-off downloads go first, then whole models
   * that nobody uses, the one unused for longest first. Nothing goes if that would not be enough.
   *
   * @param keep files of the model that is to come: neither they nor what there is of them may go
   * @throws `cache_full`
   */
  async makeRoom(bytes: number, keep: ReadonlySet<string>): Promise<void> {
    const stored = await this.#stored()
    const used = await leased(join(this.root, 'leases'))
    const taken = stored.reduce((sum, file) => sum + file.bytes, 0)
    const disk = await statfs(this.root)
    const room = Math.min(this.#budgetBytes - taken, disk.bavail * disk.bsize - SPARE_DISK_BYTES)
    let missing = bytes - room
    if (missing <= 0) return
    const goes: (() => Promise<void>)[] = []
    for (const { path, sha256, partial, bytes: own } of stored)
      if (missing > 0 && partial && !keep.has(sha256) && !used.has(sha256)) {
        goes.push(() => rm(path, { force: true }))
        missing -= own
      }
    const held = new Map(stored.flatMap((file) => (file.partial ? [] : [[file.sha256, file]])))
    for (const { key, frees } of await this.#evictable(new Set([...keep, ...used]), [...held.keys()]))
      if (missing > 0) {
        goes.push(() => this.#evict(key, frees))
        missing -= frees.reduce((sum, sha256) => sum + (held.get(sha256)?.bytes ?? 0), 0)
      }
    if (missing > 0)
      throw new HeadraceError(
        'cache_full',
        `the model cache ${this.root} has no room: ${mib(bytes)} MiB are to come, ${mib(Math.max(0, room))} MiB are free ` +
          `and ${mib(bytes - missing - room)} MiB could be`,
      )
    for (const go of goes) await go()
  }

  async #evict(key: string, frees: readonly string[]): Promise<void> {
    await rm(this.#recordOf(key), { force: true })
    await rm(this.#folderOf(key), { recursive: true, force: true })
    for (const sha256 of frees) await rm(this.blobPath(sha256), { force: true })
  }

  /**
   * Models that may go, the one unused for longest first, each with the blobs that nobody else has by then.
   *
   * @param keep keys and hashes
   */
  async #evictable(keep: ReadonlySet<string>, blobs: readonly string[]) {
    const models = await this.#models()
    const users = new Map<string, number>()
    for (const { record } of models)
      for (const { sha256 } of record.files) users.set(sha256, (users.get(sha256) ?? 0) + 1)
    const orphans = blobs.filter((sha256) => !users.has(sha256) && !keep.has(sha256))
    const found = [{ key: 'orphans', frees: orphans }]
    for (const { key, record } of models) {
      if (keep.has(key)) continue
      const frees: string[] = []
      for (const { sha256 } of record.files) {
        const left = users.get(sha256)! - 1
        users.set(sha256, left)
        if (left === 0 && !keep.has(sha256)) frees.push(sha256)
      }
      found.push({ key, frees })
    }
    return found
  }

  /** Every blob and file on its way, with the room that it takes: a file with holes takes less than its size. */
  async #stored(): Promise<{ path: string; sha256: string; partial: boolean; bytes: number }[]> {
    const found = []
    for (const folder of ['partial', 'blobs'])
      for (const name of await readdir(join(this.root, folder))) {
        const path = join(this.root, folder, name)
        const { blocks, size } = await stat(path)
        const bytes = folder === 'partial' && blocks !== undefined ? Math.min(size, blocks * 512) : size
        found.push({ path, sha256: name.split('.')[0]!, partial: folder === 'partial', bytes })
      }
    return found
  }

  async #models(): Promise<{ key: string; record: ModelRecord }[]> {
    const found = []
    for (const name of await readdir(join(this.root, 'models'))) {
      if (!name.endsWith('.json')) continue
      const key = name.slice(0, -'.json'.length)
      const record = await this.#read(key)
      if (record !== undefined) found.push({ key, record, at: (await stat(this.#recordOf(key))).mtimeMs })
    }
    return found.sort((a, b) => a.at - b.at)
  }

  async #read(key: string): Promise<ModelRecord | undefined> {
    const text = await readFile(this.#recordOf(key), 'utf8').catch(() => undefined) // not there
    return text === undefined ? undefined : recordSchema.parse(JSON.parse(text))
  }

  #folderOf = (key: string): string => join(this.root, 'models', key)
  #recordOf = (key: string): string => join(this.root, 'models', `${key}.json`)
  #nameFile = (name: string): string => join(this.root, 'names', `${encodeURIComponent(name)}.json`)
}

const mib = (bytes: number): number => Math.ceil(bytes / 2 ** 20)

/** A hard link where the file system has them, else a symbolic one. */
async function linkOrPoint(blob: string, at: string): Promise<void> {
  try {
    await link(blob, at)
  } catch (thrown) {
    if ((thrown as NodeJS.ErrnoException).code === 'ENOENT')
      throw new HeadraceError('cache_failed', `${blob} went while it was needed`, { cause: thrown })
    await symlink(blob, at)
  }
}

async function writeWhole(file: string, text: string): Promise<void> {
  const part = `${file}.${process.pid}.part`
  await writeFile(part, text)
  await rename(part, file)
}
