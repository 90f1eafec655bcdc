import type { GgmlType } from '../../shared/gguf/ggml-types.ts'

/** A tensor under its Hugging Face name, and where and how a file holds it. */
export interface StoredTensor {
  /** What the file says it is; only the types of `GGML_TYPES` are read. */
  readonly type: GgmlType | (string & {})
  readonly dims: readonly number[]
  /** Byte position of its first row in the file. */
  readonly start: number
  /** Set where GGUF holds the rows of each head as neighbouring pairs, Hugging Face as two halves: rows in a head. */
  readonly pairedRows?: number
  /** What the file has too much in every number: Gemma's norms are stored with their one added. */
  readonly surplus?: number
}

/** The row of a Hugging Face tensor that row `row` of the file is. */
export function unpairedRow(row: number, pairedRows: number): number {
  const inHead = row % pairedRows
  return row - inHead + (inHead >> 1) + (inHead & 1) * (pairedRows / 2)
}
