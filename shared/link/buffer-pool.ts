/**
 * Memory of frames that are done with, kept for the next ones. Memory that is new to a process costs several times what
 * moving bytes through it does: the kernel clears each page, no cache has it, and V8 marks the whole heap once for every
 * few dozen MiB of buffers, on threads of its own.
 *
 * Giving back is never owed: a buffer that is dropped is garbage like any other. But who gives one back must be its last
 * reader.
 */
export class BufferPool {
  readonly #mostBytes: number
  /** The one given back last is likely to be in a cache still, so it goes first. */
  readonly #free: ArrayBuffer[] = []
  #bytes = 0

  /** @param mostBytes that wait here to be used again; what is given back beyond that is dropped */
  constructor(mostBytes: number) {
    this.#mostBytes = mostBytes
  }

  /** `length` bytes at the start of a buffer of their own, with anything in them. */
  take(length: number): Uint8Array<ArrayBuffer> {
    const least = this.#free.findLastIndex((buffer) => fits(buffer, length))
    const [buffer] = least < 0 ? [] : this.#free.splice(least, 1)
    if (buffer === undefined) return new Uint8Array(fresh(length), 0, length)
    this.#bytes -= buffer.byteLength
    return new Uint8Array(buffer, 0, length)
  }

  give(buffer: ArrayBuffer): void {
    if (buffer.byteLength < SMALLEST_KEPT || this.#bytes + buffer.byteLength > this.#mostBytes) return
    this.#free.push(buffer)
    this.#bytes += buffer.byteLength
  }

  /** Forgets what it keeps. */
  clear(): void {
    this.#free.length = 0
    this.#bytes = 0
  }
}

/** Below this, the heap's own lists are as good. */
const SMALLEST_KEPT = 2 ** 15
const PAGE = 2 ** 12

/** Not one that is more than half empty: a pool of large buffers would serve small frames only. */
const fits = ({ byteLength }: ArrayBuffer, length: number): boolean => byteLength >= length && byteLength <= 2 * length

/** Whole pages, so that a block with its header and one without can have each other's memory. Not cleared. */
function fresh(length: number): ArrayBuffer {
  const bytes = length < SMALLEST_KEPT ? length : Math.ceil(length / PAGE) * PAGE
  return Buffer.allocUnsafeSlow(bytes).buffer as ArrayBuffer
}
