import { createHash } from 'node:crypto'
import { chmod, type FileHandle, open, rename, rm, stat } from 'node:fs/promises'
import { HeadraceError } from '../../shared/errors.ts'
import { type FileHash, type FileHashes, hashWhole } from '../../shared/model-store/file-hashes.ts'
import {
  contentsOf,
  type Manifest,
  type ManifestFile,
  manifestKey,
  PIECE_BYTES,
  type Piece,
  piecesOf,
} from '../../shared/model-store/manifest.ts'
import type { ModelCache } from '../../shared/model-store/model-cache.ts'
import { PieceSet } from '../../shared/model-store/piece-set.ts'
import { partialBlob, type Shelf } from '../../shared/model-store/shelf.ts'

/** A file of which not all pieces are there. */
interface Unfinished {
  readonly file: ManifestFile
  readonly handle: FileHandle
  missing: number
}

export interface PartialModelDeps {
  readonly manifest: Manifest
  readonly cache: ModelCache
  readonly hashes: FileHashes
  /** Whatever of the model is there is given away from here, from the moment it is there. */
  readonly shelf: Shelf
  readonly signal: AbortSignal
}

/**
 * A model on its way into the cache. What is there already is believed only after it was hashed: whole files, and the pieces
 * of files that a process before this one did not get to finish.
 */
export class PartialModel {
  readonly pieces: readonly Piece[]
  readonly have: PieceSet
  readonly #of: PartialModelDeps
  readonly #unfinished = new Map<string, Unfinished>()
  readonly #leases: (() => Promise<void>)[] = []
  readonly #hashed = new Map<string, FileHash>()

  private constructor(of: PartialModelDeps) {
    this.#of = of
    this.pieces = piecesOf(of.manifest)
    this.have = new PieceSet(this.pieces.length)
  }

  static async open(of: PartialModelDeps): Promise<PartialModel> {
    const model = new PartialModel(of)
    try {
      let first = 0
      for (const file of contentsOf(of.manifest)) {
        model.#leases.push(await of.cache.lease(file.sha256))
        if (!(await model.#takeBlob(file, first))) await model.#takePieces(file, first)
        first += file.pieces.length
      }
    } catch (thrown) {
      await model.close()
      throw thrown
    }
    return model
  }

  get complete(): boolean {
    return this.have.count === this.pieces.length && this.#unfinished.size === 0
  }

  get totalBytes(): number {
    return contentsOf(this.#of.manifest).reduce((sum, { size }) => sum + size, 0)
  }

  get bytes(): number {
    return this.pieces.reduce((sum, { length }, i) => sum + (this.have.has(i) ? length : 0), 0)
  }

  /** Of a piece that has been checked. */
  async write(piece: number, bytes: Uint8Array): Promise<void> {
    const { file, offset } = this.pieces[piece]!
    const unfinished = this.#unfinished.get(file.sha256)!
    await unfinished.handle.write(bytes, 0, bytes.length, offset)
    this.have.add(piece)
    if (--unfinished.missing === 0) await this.#finish(unfinished)
  }

  /** The whole is there: the path that it is opened by. */
  async publish(): Promise<{ path: string; key: string }> {
    const { manifest, cache, hashes } = this.#of
    const key = manifestKey(manifest)
    const { entry } = manifest
    const files = manifest.files.map(({ name, sha256, size }) => ({ name, sha256, size }))
    const path = await cache.publish(key, { files, ...(entry === undefined ? {} : { entry }) })
    for (const [sha256, hashed] of this.#hashed) await hashes.remember(cache.blobPath(sha256), hashed)
    return { path, key }
  }

  async close(): Promise<void> {
    for (const { handle } of this.#unfinished.values()) await handle.close()
    this.#unfinished.clear()
    for (const release of this.#leases.splice(0)) await release()
  }

  async #takeBlob(file: ManifestFile, first: number): Promise<boolean> {
    const { cache, hashes, shelf, signal } = this.#of
    const path = cache.blobPath(file.sha256)
    if ((await stat(path).catch(() => undefined)) === undefined) return false // not there
    const hashed = await hashes.of(path, signal)
    if (hashed.sha256 !== file.sha256) {
      await rm(path) // damaged, or changed by hand
      return false
    }
    shelf.put(file.sha256, { path, size: file.size })
    this.#hashed.set(file.sha256, hashed)
    for (let i = 0; i < file.pieces.length; i++) this.have.add(first + i)
    return true
  }

  async #takePieces(file: ManifestFile, first: number): Promise<void> {
    const { cache, manifest, shelf, signal } = this.#of
    const path = cache.partialPath(file.sha256, 'pieces')
    const handle = await open(path, 'r+').catch(() => open(path, 'w+'))
    const unfinished = { file, handle, missing: file.pieces.length }
    this.#unfinished.set(file.sha256, unfinished)
    const { size: before } = await handle.stat()
    await handle.truncate(file.size)
    const buffer = Buffer.allocUnsafe(before > 0 ? Math.min(manifest.piece_bytes, file.size) : 0)
    for (const [i, sha256] of file.pieces.entries()) {
      const { offset, length } = this.pieces[first + i]!
      if (offset >= before) break
      signal.throwIfAborted()
      await handle.read(buffer, 0, length, offset)
      if (createHash('sha256').update(buffer.subarray(0, length)).digest('hex') !== sha256) continue
      this.have.add(first + i)
      unfinished.missing--
    }
    shelf.put(file.sha256, partialBlob(path, file.size, manifest.piece_bytes, first, this.have))
    if (unfinished.missing === 0) await this.#finish(unfinished)
  }

  /** Content addresses are believed by every later process and other clusters: the whole is hashed, whoever sent the pieces. */
  async #finish({ file, handle }: Unfinished): Promise<void> {
    const { cache, manifest, shelf, signal } = this.#of
    const partial = cache.partialPath(file.sha256, 'pieces')
    await handle.datasync()
    await handle.close()
    if ((await hashWhole(partial, signal)) !== file.sha256) {
      await rm(partial)
      throw new HeadraceError(
        'model_tampered',
        `${file.name} is not what the manifest says: its pieces have their hashes, the whole has not`,
      )
    }
    const path = cache.blobPath(file.sha256)
    await chmod(partial, 0o444)
    await rename(partial, path)
    shelf.put(file.sha256, { path, size: file.size })
    // Its pieces were hashed as they came.
    if (manifest.piece_bytes === PIECE_BYTES) this.#hashed.set(file.sha256, file)
    this.#unfinished.delete(file.sha256)
  }
}
