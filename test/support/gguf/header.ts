import { Fields, type MetadataValue } from './fields.ts'
import { type QuantisedType, TYPE_IDS } from './quantise.ts'

/** What the header says of a tensor. */
export interface GgufTensorRecord {
  readonly name: string
  /** The fastest varying first. */
  readonly dims: readonly number[]
  readonly type: QuantisedType
  readonly bytes: number
}

export const ALIGNMENT = 32

/** GGUF version 3 (ggml, docs/gguf.md) up to the tensors, which follow in this order, each aligned. */
export function ggufHeader(
  metadata: readonly (readonly [string, MetadataValue])[],
  tensors: readonly GgufTensorRecord[],
): Uint8Array {
  const out = new Fields()
  out.bytes(Buffer.from('GGUF'))
  out.u32(3)
  out.u64(tensors.length)
  out.u64(metadata.length)
  for (const [key, value] of metadata) out.entry(key, value)
  let offset = 0
  for (const { name, dims, type, bytes } of tensors) {
    out.text(name)
    out.u32(dims.length)
    for (const dim of dims) out.u64(dim)
    out.u32(TYPE_IDS[type])
    out.u64(offset)
    offset += aligned(bytes)
  }
  return out.joined()
}

export const aligned = (bytes: number): number => Math.ceil(bytes / ALIGNMENT) * ALIGNMENT
