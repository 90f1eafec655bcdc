/**
 * Memory of large frames that are done with, for the next ones. Memory that is new to a process costs several times what
 * moving bytes through it does: the kernel clears each page, and no cache has it.
 *
 * It is shared memory, so that a frame can be passed on by one thread while another uses it, and because V8 counts other
 * buffers with the heap of each thread that they come to: it would mark all of that heap once for every few dozen MiB.
 *
 * Giving back is never owed: what is dropped is garbage like anything else. But who gives back must be the last reader.
 * What is kept is never more than was in use at once.
 */
export class BufferPool {
  /** The one given back last is likely to be in a cache still, so it goes first. */
  #free: SharedArrayBuffer[] = []

  /** `length` bytes from the start of a buffer of their own, with anything in them. */
  take(length: number): Uint8Array {
    if (length < SMALLEST_KEPT) return new Uint8Array(length)
    const found = this.#free.findLastIndex((buffer) => fits(buffer, length))
    const [buffer] = found < 0 ? [] : this.#free.splice(found, 1)
    return new Uint8Array(buffer ?? new SharedArrayBuffer(Math.ceil(length / PAGE) * PAGE), 0, length)
  }

  /** Takes back what `take` gave. */
  give({ buffer }: Uint8Array): void {
    if (buffer instanceof SharedArrayBuffer) this.#free.push(buffer)
  }

  /** Forgets what it keeps. */
  clear(): void {
    this.#free = []
  }
}

/** Below this, the heap's own lists are as good. */
const SMALLEST_KEPT = 2 ** 15
const PAGE = 2 ** 12

/** Not one that is more than half empty: small frames would use up what large ones need. */
const fits = ({ byteLength }: SharedArrayBuffer, length: number): boolean =>
  byteLength >= length && byteLength <= 2 * length
