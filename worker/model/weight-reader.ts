import { type FileHandle, open } from 'node:fs/promises'
import { HeadraceError } from '../../shared/errors.ts'
import { readExactly, readHeader } from '../../shared/gguf/file.ts'
import { GGML_TYPES, type GgmlType } from '../../shared/gguf/ggml-types.ts'
import { dequantise } from './dequantise.ts'
import { type GgufNaming, huggingFaceTensors, namingOf } from './gguf-tensors.ts'
import { headerLength, malformed, PREFIX_BYTES, parseHeader } from './safetensors.ts'
import { type StoredTensor, unpairedRow } from './stored-tensor.ts'

/** Bytes read at once: large enough for the disk, small enough that a paced reader can stop in between. */
const PIECE_BYTES = 4 << 20

/** A hundred layers of a thousand experts; stacked ones take few bytes of a file each. */
const MAX_TENSORS = 1 << 19

/** A tensor of a type that is read, and the file that holds it. */
interface Located extends StoredTensor {
  readonly file: string
  readonly handle: FileHandle
}
interface Readable extends Located {
  readonly type: GgmlType
}

/**
 * All weight bytes of a model pass through here, from safetensors and GGUF alike, under Hugging Face's names and in its
 * order of rows: positioned reads, piece by piece, widened to float32 on the way or as the blocks that are stored.
 */
export class WeightReader {
  readonly #handles: FileHandle[] = []
  readonly #tensors = new Map<string, Located>()
  readonly #piece = new Uint8Array(PIECE_BYTES)

  /** The safetensors files of a model, or its GGUF files, the first one first. */
  static async open(files: readonly string[]): Promise<WeightReader> {
    const reader = new WeightReader()
    try {
      let naming: GgufNaming | undefined
      for (const file of files) {
        const handle = await open(file)
        reader.#handles.push(handle)
        if (!file.endsWith('.gguf')) {
          reader.#add(file, handle, await safetensors(file, handle))
          continue
        }
        const header = await readHeader(handle, file)
        naming ??= namingOf(header)
        reader.#add(file, handle, huggingFaceTensors(header, naming))
      }
      return reader
    } catch (error) {
      await reader.close()
      throw error
    }
  }

  names(): Iterable<string> {
    return this.#tensors.keys()
  }

  /** How the matrices are stored. */
  matrixTypes(): Set<string> {
    return new Set([...this.#tensors.values()].flatMap(({ type, dims }) => (dims.length < 2 ? [] : [type])))
  }

  has(name: string): boolean {
    return this.#tensors.has(name)
  }

  /** Reads a tensor of exactly these dimensions into `target`, which holds as many elements. */
  async read(name: string, dims: readonly number[], target: Float32Array<ArrayBuffer>): Promise<void> {
    const tensor = this.#checked(name, dims)
    const { elements, bytes } = GGML_TYPES[tensor.type]
    await this.#pieces(tensor, (piece, at) => {
      const from = (at / bytes) * elements
      const out = target.subarray(from, from + (piece.length / bytes) * elements)
      dequantise(tensor.type, piece, out)
      if (tensor.surplus !== undefined) for (let i = 0; i < out.length; i++) out[i]! -= tensor.surplus
    })
  }

  /** Throws unless the tensor exists with these dimensions and a type that can be read. Allocate only after this. */
  check(name: string, dims: readonly number[]): void {
    this.#checked(name, dims)
  }

  /**
   * How a tensor is stored: its type, and the bytes that `readStored` fills. Row after row in Hugging Face's order, each
   * of whole blocks: a block of a matrix `[out, in]` is of one `out` and neighbouring `in`.
   */
  stored(name: string, dims: readonly number[]): { readonly type: GgmlType; readonly bytes: number } {
    const { type } = this.#checked(name, dims)
    return { type, bytes: bytesOf(type, dims) }
  }

  /** Reads the blocks of a tensor of exactly these dimensions as they are. */
  async readStored(name: string, dims: readonly number[], target: Uint8Array): Promise<void> {
    const tensor = this.#checked(name, dims)
    if (tensor.surplus !== undefined) throw badTensor(name, 'what is stored to be what is meant', 'a norm plus one')
    await this.#pieces(tensor, (piece, at) => target.set(piece, at))
  }

  async close(): Promise<void> {
    await Promise.all(this.#handles.splice(0).map((handle) => handle.close()))
  }

  /** Calls `take` with every piece of a tensor, whole blocks, and the byte where it belongs once its rows are in order. */
  async #pieces(tensor: Readable, take: (piece: Uint8Array, at: number) => void): Promise<void> {
    const { file, handle, type, dims, start, pairedRows } = tensor
    const total = bytesOf(type, dims)
    const rowBytes = total / dims[0]!
    const unit = pairedRows === undefined ? GGML_TYPES[type].bytes : rowBytes
    const pieceBytes = Math.floor(PIECE_BYTES / unit) * unit
    if (pieceBytes === 0) throw malformed(file, `rows of ${rowBytes} bytes are too long to be put in order`)
    for (let from = 0; from < total; from += pieceBytes) {
      const piece = this.#piece.subarray(0, Math.min(pieceBytes, total - from))
      await readExactly(handle, piece, start + from, file)
      if (pairedRows === undefined) take(piece, from)
      else
        for (let at = 0; at < piece.length; at += rowBytes)
          take(piece.subarray(at, at + rowBytes), unpairedRow((from + at) / rowBytes, pairedRows) * rowBytes)
    }
  }

  #checked(name: string, dims: readonly number[]): Readable {
    const expected = `[${dims}]`
    const located = this.#tensors.get(name)
    if (located === undefined) throw badTensor(name, expected, 'nothing')
    const { type, dims: found, pairedRows } = located
    if (`[${found}]` !== expected) throw badTensor(name, expected, `[${found}]`)
    if (!isReadable(located)) throw badTensor(name, Object.keys(GGML_TYPES).join(', '), type)
    if (pairedRows !== undefined && (pairedRows < 2 || pairedRows % 2 !== 0))
      throw badTensor(name, 'heads with an even number of rows', String(pairedRows))
    return located
  }

  #add(file: string, handle: FileHandle, tensors: Iterable<[string, StoredTensor]>): void {
    for (const [name, tensor] of tensors) {
      if (this.#tensors.has(name)) throw malformed(file, `${name} is there twice`)
      if (this.#tensors.size === MAX_TENSORS) throw malformed(file, `it has more than ${MAX_TENSORS} tensors`)
      this.#tensors.set(name, { ...tensor, file, handle })
    }
  }
}

async function safetensors(file: string, handle: FileHandle): Promise<Iterable<[string, StoredTensor]>> {
  const { size } = await handle.stat()
  const prefix = new Uint8Array(PREFIX_BYTES)
  await readExactly(handle, prefix, 0, file)
  const header = new Uint8Array(headerLength(prefix, size, file))
  await readExactly(handle, header, PREFIX_BYTES, file)
  return parseHeader(header, size, file)
}

const isReadable = (tensor: Located): tensor is Readable => Object.hasOwn(GGML_TYPES, tensor.type)

function bytesOf(type: GgmlType, dims: readonly number[]): number {
  const { elements, bytes } = GGML_TYPES[type]
  return (dims.reduce((product, dim) => product * dim, 1) / elements) * bytes
}

const badTensor = (name: string, expected: string, found: string) =>
  new HeadraceError('model_bad_tensor', `${name}: expected ${expected}, found ${found}`, {
    details: { tensor: name, expected, found },
  })
