import { type FileHandle, open } from 'node:fs/promises'

const PIECE_BYTES = 8 << 20

/** Appends to a file through one buffer: models are larger than memory should be. */
export class FileWriter {
  readonly #handle: FileHandle
  readonly #piece = new Uint8Array(PIECE_BYTES)
  #filled = 0
  /** Bytes appended so far. */
  written = 0

  private constructor(handle: FileHandle) {
    this.#handle = handle
  }

  static async create(path: string): Promise<FileWriter> {
    return new FileWriter(await open(path, 'w'))
  }

  /** Room for `bytes` more, at most 8 MiB, to be written into before the next call. */
  async room(bytes: number): Promise<Uint8Array> {
    if (this.#filled + bytes > PIECE_BYTES) await this.#flush()
    const room = this.#piece.subarray(this.#filled, this.#filled + bytes)
    this.#filled += bytes
    this.written += bytes
    return room
  }

  async append(bytes: Uint8Array): Promise<void> {
    for (let from = 0; from < bytes.length; from += PIECE_BYTES) {
      const part = bytes.subarray(from, from + PIECE_BYTES)
      const room = await this.room(part.length)
      room.set(part)
    }
  }

  /** Zeros up to the next multiple of `alignment`. */
  async pad(alignment: number): Promise<void> {
    const room = await this.room((alignment - (this.written % alignment)) % alignment)
    room.fill(0)
  }

  async close(): Promise<void> {
    try {
      await this.#flush()
    } finally {
      await this.#handle.close()
    }
  }

  async #flush(): Promise<void> {
    let done = 0
    while (done < this.#filled) done += (await this.#handle.write(this.#piece, done, this.#filled - done)).bytesWritten
    this.#filled = 0
  }
}
