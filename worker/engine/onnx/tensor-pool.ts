import { HeadraceError } from '../../../shared/errors.ts'
import type { Floats } from '../host-tensors.ts'

/** Released buffers above this are left to the garbage collector. */
const MAX_POOLED_BYTES = 64 << 20

/** Keeps released buffers by length: a prefill asks for the same few sizes thousands of times. */
export class TensorPool {
  readonly #free = new Map<number, Floats[]>()
  #bytes = 0

  /** A buffer with unspecified content. */
  take(length: number): Floats {
    const found = this.#free.get(length)?.pop()
    if (found === undefined) return allocate(length)
    this.#bytes -= found.byteLength
    return found
  }

  give(buffer: Floats): void {
    if (buffer.length === 0 || this.#bytes + buffer.byteLength > MAX_POOLED_BYTES) return
    const sameLength = this.#free.get(buffer.length)
    if (sameLength) sameLength.push(buffer)
    else this.#free.set(buffer.length, [buffer])
    this.#bytes += buffer.byteLength
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
