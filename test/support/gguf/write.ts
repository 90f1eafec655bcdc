import { Fields, type MetadataValue } from './fields.ts'
import { BLOCK_ELEMENTS, QUANTISERS, type QuantisedType, TYPE_IDS } from './quantise.ts'

export interface GgufTensorToWrite {
  readonly name: string
  /** The slowest varying first. */
  readonly dims: readonly number[]
  readonly values: Float32Array
}

const ALIGNMENT = 32

/**
 * The bytes of a GGUF file, version 3. Matrices are of `type` where their rows are whole blocks, else F32, as all vectors.
 */
export function ggufBytes(
  metadata: readonly (readonly [string, MetadataValue])[],
  tensors: readonly GgufTensorToWrite[],
  type: QuantisedType = 'F32',
): Uint8Array {
  const encoded = tensors.map(({ name, dims, values }) => {
    const own = dims.length > 1 && dims.at(-1)! % BLOCK_ELEMENTS[type] === 0 ? type : 'F32'
    return { name, dims, id: TYPE_IDS[own], bytes: QUANTISERS[own](values) }
  })
  const out = new Fields()
  out.bytes(Buffer.from('GGUF'))
  out.u32(3)
  out.u64(tensors.length)
  out.u64(metadata.length)
  for (const [key, value] of metadata) out.entry(key, value)
  let offset = 0
  for (const { name, dims, id, bytes } of encoded) {
    out.text(name)
    out.u32(dims.length)
    for (const dim of [...dims].reverse()) out.u64(dim)
    out.u32(id)
    out.u64(offset)
    offset += padded(bytes.length)
  }
  const head = out.joined()
  const parts = [head, new Uint8Array(padded(head.length) - head.length)]
  for (const { bytes } of encoded) parts.push(bytes, new Uint8Array(padded(bytes.length) - bytes.length))
  return Buffer.concat(parts)
}

const padded = (bytes: number) => Math.ceil(bytes / ALIGNMENT) * ALIGNMENT
