import { HeadraceError } from '../errors.ts'
import { Cursor, malformed } from './cursor.ts'
import { GGML_TYPES, type GgmlType, ggmlTypeOf, unreadTypeName } from './ggml-types.ts'
import { type GgufValue, readValue } from './values.ts'

/**
 * The header of a GGUF file, versions 2 and 3 (ggml, docs/gguf.md): counts, metadata, one record a tensor; then the
 * tensors, each aligned. Files come from strangers: nothing is allocated for a count or a length before the bytes that
 * it claims were seen, and as in ggml the tensors must tile the data, padded to the alignment.
 */
export interface GgufHeader {
  readonly file: string
  readonly metadata: ReadonlyMap<string, GgufValue>
  readonly tensors: ReadonlyMap<string, GgufTensor>
}

export interface GgufTensor {
  readonly type: GgmlType
  /** The slowest varying first, as everywhere but in GGUF: `[rows, columns]`, `[experts, rows, columns]`. */
  readonly dims: readonly number[]
  /** Byte positions `[start, end)` in the file. */
  readonly start: number
  readonly end: number
}

const MAGIC = 0x46554747
const MAX_TENSORS = 1 << 18
const MAX_ENTRIES = 1 << 16
const MAX_NAME_BYTES = 1 << 10
const MAX_DIMS = 4
const ALIGNMENT = 32
const MAX_ALIGNMENT = 1 << 16

/** Before it reads beyond `bytes`, the beginning of the file, throws `Incomplete`. Errors: `model_bad_weights`, `model_unsupported`. */
export function parseHeader(bytes: Uint8Array<ArrayBuffer>, fileBytes: number, file: string): GgufHeader {
  const cursor = new Cursor(bytes, fileBytes, file)
  if (cursor.u32() !== MAGIC) throw malformed(file, 'it does not begin as a GGUF file does')
  const version = cursor.u32()
  if (version !== 2 && version !== 3) throw refused(file, `version ${version}, or it is big-endian`)
  const tensorCount = cursor.count(MAX_TENSORS, 'tensors')
  const entryCount = cursor.count(MAX_ENTRIES, 'entries')
  const metadata = new Map<string, GgufValue>()
  for (let i = 0; i < entryCount; i++) {
    const key = cursor.text(MAX_NAME_BYTES)
    if (metadata.has(key)) throw malformed(file, `it has ${key} twice`)
    metadata.set(key, readValue(cursor, cursor.u32()))
  }
  const records = new Map<string, TensorRecord>()
  for (let i = 0; i < tensorCount; i++) {
    const name = cursor.text(MAX_NAME_BYTES)
    if (records.has(name)) throw malformed(file, `it has the tensor ${name} twice`)
    records.set(name, tensorRecord(cursor, name))
  }
  return { file, metadata, tensors: placed(records, cursor.at, alignmentOf(metadata, file), fileBytes, file) }
}

interface TensorRecord {
  readonly type: GgmlType
  readonly dims: readonly number[]
  readonly bytes: number
  readonly offset: number
}

function tensorRecord(cursor: Cursor, name: string): TensorRecord {
  const { file } = cursor
  const dimCount = cursor.u32()
  if (dimCount < 1 || dimCount > MAX_DIMS) throw malformed(file, `${name} has ${dimCount} dimensions`)
  const dims = Array.from({ length: dimCount }, () => cursor.size(`a dimension of ${name}`)).reverse()
  const typeId = cursor.u32()
  const offset = cursor.size(`the offset of ${name}`)
  const type = ggmlTypeOf(typeId)
  if (type === undefined) throw refused(file, `${name} in the type ${unreadTypeName(typeId)}`)
  const { elements, bytes } = GGML_TYPES[type]
  const count = dims.reduce((product, dim) => product * dim, 1)
  // the inexact product of absurd sizes must not pass for a match
  if (count < 1 || !Number.isSafeInteger(count * bytes)) throw malformed(file, `${name} is ${type} [${dims}]`)
  if (dims.at(-1)! % elements !== 0)
    throw malformed(file, `${name} is ${type} [${dims}], whose rows are not whole blocks of ${elements}`)
  return { type, dims, bytes: (count / elements) * bytes, offset }
}

/** In the order of the records every tensor begins where the one before ended, padded. */
function placed(
  records: ReadonlyMap<string, TensorRecord>,
  headerEnd: number,
  alignment: number,
  fileBytes: number,
  file: string,
): Map<string, GgufTensor> {
  const padded = (position: number) => Math.ceil(position / alignment) * alignment
  const data = padded(headerEnd)
  const tensors = new Map<string, GgufTensor>()
  let expected = 0
  for (const [name, { type, dims, bytes, offset }] of records) {
    if (offset !== expected) throw malformed(file, `${name} has the offset ${offset}, ${expected} was expected`)
    const [start, end] = [data + offset, data + offset + bytes]
    if (end > fileBytes) throw malformed(file, `${name} ends at ${end}, the file at ${fileBytes}`)
    tensors.set(name, { type, dims, start, end })
    expected = padded(offset + bytes)
  }
  return tensors
}

function alignmentOf(metadata: ReadonlyMap<string, GgufValue>, file: string): number {
  const alignment = metadata.get('general.alignment') ?? ALIGNMENT
  const fits = typeof alignment === 'number' && alignment >= 1 && alignment <= MAX_ALIGNMENT
  if (!fits || !Number.isInteger(Math.log2(alignment)))
    throw malformed(file, 'its general.alignment is no power of two')
  return alignment
}

const refused = (file: string, what: string) =>
  new HeadraceError('model_unsupported', `${file}: ${what.slice(0, 300)} is not read`)
