import { HeadraceError } from '../../../shared/errors.ts'
import type { Floats } from '../host-tensors.ts'

/** What is kept at most. */
const MAX_POOLED_BYTES = 64 << 20

/**
 * Keeps released buffers by length: a prefill asks for the same few sizes thousands of times. The next one may ask for
 * others, so where there is no room, those go first whose length was given back longest ago.
 */
export class TensorPool {
  /** No list is empty; that of the length that was given back last is the last. */
  readonly #free = new Map<number, Floats[]>()
  #bytes = 0

  /** A buffer with unspecified content. */
  take(length: number): Floats {
    const sameLength = this.#free.get(length)
    return sameLength === undefined ? allocate(length) : this.#takeFrom(sameLength)
  }

  give(buffer: Floats): void {
    if (buffer.length === 0) return
    const sameLength = this.#free.get(buffer.length) ?? []
    sameLength.push(buffer)
    this.#free.delete(buffer.length)
    this.#free.set(buffer.length, sameLength)
    this.#bytes += buffer.byteLength
    for (const oldest of this.#free.values())
      while (oldest.length > 0 && this.#bytes > MAX_POOLED_BYTES) this.#takeFrom(oldest)
  }

  #takeFrom(sameLength: Floats[]): Floats {
    const buffer = sameLength.pop()!
    if (sameLength.length === 0) this.#free.delete(buffer.length)
    this.#bytes -= buffer.byteLength
    return buffer
  }

  clear(): void {
    this.#free.clear()
    this.#bytes = 0
  }
}

function allocate(length: number): Floats {
  try {
    return new Float32Array(length)
  } catch (cause) {
    throw new HeadraceError('out_of_memory', `no room for ${length * 4} bytes`, { cause })
  }
}
