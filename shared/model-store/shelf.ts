import type { PieceSet } from './piece-set.ts'

/** A file that may be given away, by the hash of its whole. */
export interface Blob {
  readonly path: string
  readonly size: number
  /** Absent: all of it is there. Else whether these bytes are. */
  readonly has?: (start: number, end: number) => boolean
}

/** What this process gives away: blobs of its model by SHA-256, and no other file, whatever a request says. */
export class Shelf {
  readonly #blobs = new Map<string, Blob>()

  put(sha256: string, blob: Blob): void {
    this.#blobs.set(sha256, blob)
  }

  get(sha256: string): Blob | undefined {
    return this.#blobs.get(sha256)
  }
}

/** A file of which only some pieces have come: `first` is its first one among the model's. */
export function partialBlob(path: string, size: number, pieceBytes: number, first: number, have: PieceSet): Blob {
  const has = (start: number, end: number): boolean => {
    for (let i = Math.floor(start / pieceBytes); i * pieceBytes < end; i++) if (!have.has(first + i)) return false
    return true
  }
  return { path, size, has }
}
