import { createHash, type Hash } from 'node:crypto'
import { createReadStream } from 'node:fs'
import { mkdir, readdir, readFile, rename, rm, stat, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { z } from 'zod'
import { PIECE_BYTES } from './manifest.ts'

export interface FileHash {
  readonly size: number
  readonly sha256: string
  /** Of each `PIECE_BYTES`. */
  readonly pieces: readonly string[]
}

/** Below this, hashing is quicker than looking it up. */
const WORTH_KEEPING_BYTES = 1 << 20
const MOST_KEPT = 512
const READ_BYTES = 1 << 20

const keptSchema = z.strictObject({
  stamp: z.string(),
  size: z.number().int(),
  sha256: z.string().length(64),
  pieces: z.array(z.string().length(64)),
})

/**
 * Hashes of files, kept beside the model cache for as long as the file stays what it is: same inode, size, and times of
 * its last change, of which a process can set back one (mtime) but not the other (ctime).
 */
export class FileHashes {
  readonly #folder: string

  /** @param cache the model cache's folder */
  constructor(cache: string) {
    this.#folder = join(cache, 'hashes')
  }

  async of(path: string, signal?: AbortSignal): Promise<FileHash> {
    const { inode, stamp } = await stampOf(path)
    const kept = await this.#kept(inode)
    if (kept?.stamp === stamp) return kept
    const hashed = await hashFile(path, signal)
    // Changed while it was read: what was read may be neither the old file nor the new one.
    if ((await stampOf(path)).stamp === stamp) await this.#keep(inode, stamp, hashed)
    return hashed
  }

  /** For who has just hashed the file. */
  async remember(path: string, hashed: FileHash): Promise<void> {
    const { inode, stamp } = await stampOf(path)
    await this.#keep(inode, stamp, hashed)
  }

  async #kept(inode: string): Promise<z.infer<typeof keptSchema> | undefined> {
    try {
      return keptSchema.parse(JSON.parse(await readFile(this.#fileOf(inode), 'utf8')))
    } catch {
      return undefined // never kept, or not by this version: hashing again tells
    }
  }

  async #keep(inode: string, stamp: string, hashed: FileHash): Promise<void> {
    if (hashed.size < WORTH_KEEPING_BYTES) return
    const file = this.#fileOf(inode)
    const part = `${file}.${process.pid}.part`
    try {
      await mkdir(this.#folder, { recursive: true })
      await writeFile(part, JSON.stringify({ stamp, ...hashed }))
      await rename(part, file)
      await this.#forgetOldest()
    } catch {
      // A folder that cannot be written costs hashing again at the next start, nothing else.
    }
  }

  async #forgetOldest(): Promise<void> {
    const names = await readdir(this.#folder)
    if (names.length <= MOST_KEPT) return
    const dated = await Promise.all(
      names.map(async (name) => ({ name, at: (await stat(join(this.#folder, name))).mtimeMs })),
    )
    dated.sort((a, b) => a.at - b.at)
    for (const { name } of dated.slice(0, names.length - MOST_KEPT)) await rm(join(this.#folder, name), { force: true })
  }

  #fileOf(inode: string): string {
    return join(this.#folder, `${inode}.json`)
  }
}

/** By inode, so that all links to a file share what is known of it. */
async function stampOf(path: string): Promise<{ inode: string; stamp: string }> {
  const { dev, ino, size, mtimeNs, ctimeNs } = await stat(path, { bigint: true })
  return { inode: `${dev}-${ino}`, stamp: `${size} ${mtimeNs} ${ctimeNs}` }
}

/** Of the whole alone. */
export async function hashWhole(path: string, signal?: AbortSignal): Promise<string> {
  const whole = createHash('sha256')
  for await (const read of createReadStream(path, { highWaterMark: READ_BYTES, signal })) whole.update(read as Buffer)
  return whole.digest('hex')
}

/** One pass: the hash of the whole and of each piece. */
export async function hashFile(path: string, signal?: AbortSignal): Promise<FileHash> {
  const whole = createHash('sha256')
  const pieces: string[] = []
  let piece: Hash | undefined
  let inPiece = 0
  let size = 0
  for await (const read of createReadStream(path, { highWaterMark: READ_BYTES, signal })) {
    const bytes = read as Buffer
    whole.update(bytes)
    size += bytes.length
    for (let at = 0; at < bytes.length; ) {
      piece ??= createHash('sha256')
      const part = bytes.subarray(at, at + PIECE_BYTES - inPiece)
      piece.update(part)
      at += part.length
      inPiece += part.length
      if (inPiece < PIECE_BYTES) continue
      pieces.push(piece.digest('hex'))
      piece = undefined
      inPiece = 0
    }
  }
  if (piece !== undefined) pieces.push(piece.digest('hex'))
  return { size, sha256: whole.digest('hex'), pieces }
}
