import { HeadraceError } from '../../../shared/errors.ts'
import type { Floats } from '../host-tensors.ts'

/** What is kept at most. */
const MAX_POOLED_BYTES = 64 << 20

/**
 * Keeps the memory of released buffers, by size: a prefill asks for the same few sizes thousands of times. The next one asks
 * for nearly the same, so sizes are rounded up, by an eighth at most; and where there is no room, those go first of which one
 * was given back longest ago.
 */
export class TensorPool {
  /** By bytes. No list is empty; that of the size that was given back last is the last. */
  readonly #free = new Map<number, ArrayBuffer[]>()
  #bytes = 0

  /** A buffer with unspecified content, from the start of memory of its own. */
  take(length: number): Floats {
    const bytes = roundedUp(length * Float32Array.BYTES_PER_ELEMENT)
    const sameSize = this.#free.get(bytes)
    return new Float32Array(sameSize === undefined ? allocate(bytes) : this.#takeFrom(sameSize), 0, length)
  }

  /** Takes back what `take` gave. */
  give({ buffer, length }: Floats): void {
    if (length === 0) return
    const sameSize = this.#free.get(buffer.byteLength) ?? []
    sameSize.push(buffer)
    this.#free.delete(buffer.byteLength)
    this.#free.set(buffer.byteLength, sameSize)
    this.#bytes += buffer.byteLength
    for (const oldest of this.#free.values())
      while (oldest.length > 0 && this.#bytes > MAX_POOLED_BYTES) this.#takeFrom(oldest)
  }

  #takeFrom(sameSize: ArrayBuffer[]): ArrayBuffer {
    const buffer = sameSize.pop()!
    if (sameSize.length === 0) this.#free.delete(buffer.byteLength)
    this.#bytes -= buffer.byteLength
    return buffer
  }

  clear(): void {
    this.#free.clear()
    this.#bytes = 0
  }
}

/** To a multiple of the eighth part of the power of two below. */
function roundedUp(bytes: number): number {
  const step = Math.max(64, 2 ** Math.floor(Math.log2(Math.max(1, bytes))) / 8)
  return Math.ceil(bytes / step) * step
}

function allocate(bytes: number): ArrayBuffer {
  try {
    return new ArrayBuffer(bytes)
  } catch (cause) {
    throw new HeadraceError('out_of_memory', `no room for ${bytes} bytes`, { cause })
  }
}
