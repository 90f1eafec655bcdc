import { type FileHandle, open } from 'node:fs/promises'
import { HeadraceError } from '../../shared/errors.ts'
import { headerLength, malformed, PREFIX_BYTES, parseHeader, type TensorInfo } from './safetensors.ts'
import { widenBf16, widenF16 } from './widen.ts'

/** Bytes read at once: large enough for the disk, small enough that a paced reader can stop in between. */
const PIECE_BYTES = 4 << 20

/** A tensor and the file that holds it. */
interface Located {
  readonly file: string
  readonly handle: FileHandle
  readonly info: TensorInfo
}

/** All weight bytes of a model pass through here: positioned reads, piece by piece, widened to float32 on the way. */
export class WeightReader {
  readonly #handles: FileHandle[] = []
  readonly #tensors = new Map<string, Located>()
  readonly #piece = new Uint8Array(PIECE_BYTES)

  static async open(files: readonly string[]): Promise<WeightReader> {
    const reader = new WeightReader()
    try {
      for (const file of files) await reader.#add(file)
      return reader
    } catch (error) {
      await reader.close()
      throw error
    }
  }

  names(): Iterable<string> {
    return this.#tensors.keys()
  }

  has(name: string): boolean {
    return this.#tensors.has(name)
  }

  /** Reads a tensor of exactly these dimensions into `target`, which holds as many elements. */
  async read(name: string, dims: readonly number[], target: Float32Array<ArrayBuffer>): Promise<void> {
    const { file, handle, info } = this.#checked(name, dims)
    const elementBytes = info.dtype === 'F32' ? 4 : 2
    const pieceElements = PIECE_BYTES / elementBytes
    for (let from = 0; from < info.elements; from += pieceElements) {
      const out = target.subarray(from, Math.min(from + pieceElements, info.elements))
      const bytes = this.#piece.subarray(0, out.length * elementBytes)
      await readExactly(handle, bytes, info.start + from * elementBytes, file)
      if (info.dtype === 'F32') out.set(new Float32Array(bytes.buffer, 0, out.length))
      else (info.dtype === 'F16' ? widenF16 : widenBf16)(new Uint16Array(bytes.buffer, 0, out.length), out)
    }
  }

  /** Throws unless the tensor exists with these dimensions and a type that can be read. Allocate only after this. */
  check(name: string, dims: readonly number[]): void {
    this.#checked(name, dims)
  }

  async close(): Promise<void> {
    await Promise.all(this.#handles.splice(0).map((handle) => handle.close()))
  }

  #checked(name: string, dims: readonly number[]): Located {
    const expected = `[${dims}]`
    const located = this.#tensors.get(name)
    if (located === undefined) throw badTensor(name, expected, 'nothing')
    const { dtype, dims: found } = located.info
    if (`[${found}]` !== expected) throw badTensor(name, expected, `[${found}]`)
    if (dtype !== 'F32' && dtype !== 'F16' && dtype !== 'BF16') throw badTensor(name, 'F32, F16 or BF16', dtype)
    return located
  }

  async #add(file: string): Promise<void> {
    const handle = await open(file)
    this.#handles.push(handle)
    const { size } = await handle.stat()
    const prefix = new Uint8Array(PREFIX_BYTES)
    await readExactly(handle, prefix, 0, file)
    const header = new Uint8Array(headerLength(prefix, size, file))
    await readExactly(handle, header, PREFIX_BYTES, file)
    for (const [name, info] of parseHeader(header, size, file)) {
      if (this.#tensors.has(name)) throw malformed(file, `${name} is in another file too`)
      this.#tensors.set(name, { file, handle, info })
    }
  }
}

const badTensor = (name: string, expected: string, found: string) =>
  new HeadraceError('model_bad_tensor', `${name}: expected ${expected}, found ${found}`, {
    details: { tensor: name, expected, found },
  })

async function readExactly(handle: FileHandle, into: Uint8Array, position: number, file: string): Promise<void> {
  let done = 0
  while (done < into.byteLength) {
    const { bytesRead } = await handle.read(into, done, into.byteLength - done, position + done)
    if (bytesRead === 0) throw malformed(file, `it ends at ${position + done}`)
    done += bytesRead
  }
}
