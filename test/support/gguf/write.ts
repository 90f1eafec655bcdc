import type { MetadataValue } from './fields.ts'
import { aligned, ggufHeader } from './header.ts'
import { BLOCK_ELEMENTS, QUANTISERS, type QuantisedType } from './quantise.ts'

export interface GgufTensorToWrite {
  readonly name: string
  /** The slowest varying first. */
  readonly dims: readonly number[]
  readonly values: Float32Array
}

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
    return { name, dims: [...dims].reverse(), type: own, data: QUANTISERS[own](values) }
  })
  const records = encoded.map(({ data, ...record }) => ({ ...record, bytes: data.length }))
  return Buffer.concat([ggufHeader(metadata, records), ...encoded.map(({ data }) => data)].flatMap(padded))
}

const padded = (bytes: Uint8Array): Uint8Array[] => [bytes, new Uint8Array(aligned(bytes.length) - bytes.length)]
