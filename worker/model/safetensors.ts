import { z } from 'zod'
import { HeadraceError } from '../../shared/errors.ts'
import { safeParse } from '../../shared/safe-parse.ts'

/**
 * The safetensors header (huggingface/safetensors, README "Format"): u64 little-endian length, JSON, then the tensors'
 * bytes. Files come from strangers, so everything is checked before anything is allocated: as in the reference
 * implementation the tensors must tile the data exactly, without holes, overlaps or a tail.
 */
export interface TensorInfo {
  readonly type: Dtype
  readonly dims: readonly number[]
  /** Byte positions `[start, end)` in the file. */
  readonly start: number
  readonly end: number
}

/** Element bytes of the types the format knows and whole bytes hold. Only floating types are read. */
const DTYPE_BYTES = {
  BOOL: 1,
  U8: 1,
  I8: 1,
  F8_E5M2: 1,
  F8_E4M3: 1,
  I16: 2,
  U16: 2,
  F16: 2,
  BF16: 2,
  I32: 4,
  U32: 4,
  F32: 4,
  F64: 8,
  I64: 8,
  U64: 8,
} as const
type Dtype = keyof typeof DTYPE_BYTES

export const PREFIX_BYTES = 8
const MAX_HEADER_BYTES = 100 << 20
const MAX_DIMS = 8

const index = z.number().int().min(0).max(Number.MAX_SAFE_INTEGER)
const entrySchema = z.strictObject({
  dtype: z.enum(Object.keys(DTYPE_BYTES) as [Dtype, ...Dtype[]]),
  shape: z.array(index).max(MAX_DIMS),
  data_offsets: z.tuple([index, index]),
})

/** The length of the JSON header, from the file's first eight bytes. */
export function headerLength(prefix: Uint8Array, fileBytes: number, file: string): number {
  if (prefix.byteLength < PREFIX_BYTES) throw malformed(file, 'it is shorter than a header')
  const length = new DataView(prefix.buffer, prefix.byteOffset, PREFIX_BYTES).getBigUint64(0, true)
  const limit = Math.min(MAX_HEADER_BYTES, fileBytes - PREFIX_BYTES)
  if (length > BigInt(limit)) throw malformed(file, `its header claims ${length} bytes, ${limit} are possible`)
  return Number(length)
}

/** The tensors of a file by name, from its JSON header and its size. */
export function parseHeader(header: Uint8Array, fileBytes: number, file: string): Map<string, TensorInfo> {
  const data = PREFIX_BYTES + header.byteLength
  const tensors = new Map<string, TensorInfo>()
  for (const [name, value] of Object.entries(headerObject(header, file)))
    if (name !== '__metadata__') tensors.set(name, tensorInfo(name, value, data, file))
  let end = data
  for (const [name, tensor] of [...tensors].sort(([, a], [, b]) => a.start - b.start || a.end - b.end)) {
    if (tensor.start !== end) throw malformed(file, `${name} starts at ${tensor.start}, the one before ends at ${end}`)
    end = tensor.end
  }
  if (end !== fileBytes) throw malformed(file, `its tensors end at ${end}, the file at ${fileBytes}`)
  return tensors
}

function tensorInfo(name: string, value: unknown, data: number, file: string): TensorInfo {
  const entry = safeParse(entrySchema, value)
  if (!entry.success) throw malformed(file, `${name}: ${entry.error.issues[0]?.message}`)
  const { dtype, shape: dims, data_offsets: offsets } = entry.data
  const elements = dims.reduce((product, dim) => product * dim, 1)
  const bytes = elements * DTYPE_BYTES[dtype]
  // the inexact product of absurd sizes must not pass for a match
  if (!Number.isSafeInteger(bytes) || offsets[1] - offsets[0] !== bytes)
    throw malformed(file, `${name} is ${dtype} [${dims}] but has offsets [${offsets}]`)
  return { type: dtype, dims, start: data + offsets[0], end: data + offsets[1] }
}

function headerObject(header: Uint8Array, file: string): object {
  let text: string
  let value: unknown
  try {
    text = new TextDecoder('utf-8', { fatal: true }).decode(header)
    value = JSON.parse(text)
  } catch (cause) {
    throw new HeadraceError('model_bad_weights', `${file}: its header is not JSON`, { cause })
  }
  if (typeof value !== 'object' || value === null || Array.isArray(value))
    throw malformed(file, 'its header is not a JSON object')
  const twice = duplicateKey(text)
  if (twice !== undefined) throw malformed(file, `its header names ${twice} twice`)
  return value
}

/** JSON.parse silently keeps the last of two equal keys; this finds them in text that is known to be valid JSON. */
function duplicateKey(json: string): string | undefined {
  const open: Set<string>[] = []
  for (let at = 0; at < json.length; at++) {
    if (json[at] === '{') open.push(new Set())
    else if (json[at] === '}') open.pop()
    else if (json[at] === '"') {
      const start = at
      for (at += 1; json[at] !== '"'; at++) if (json[at] === '\\') at += 1
      if (!isKey(json, at + 1)) continue
      const key: string = JSON.parse(json.slice(start, at + 1))
      if (open.at(-1)?.has(key)) return key
      open.at(-1)?.add(key)
    }
  }
  return undefined
}

/** Whether the string that ends before `at` is followed by a colon. */
function isKey(json: string, at: number): boolean {
  while (' \t\r\n'.includes(json[at] ?? '.')) at += 1
  return json[at] === ':'
}

/** A hostile name may be megabytes long: the message shows its beginning. */
export const malformed = (file: string, what: string) =>
  new HeadraceError('model_bad_weights', `${file}: ${what.slice(0, 300)}`)
