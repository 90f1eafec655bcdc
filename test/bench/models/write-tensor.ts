import { type Encoding, encodedBytes, RowEncoder } from './encoding.ts'
import type { FileWriter } from './file-writer.ts'
import type { RandomWeights } from './random-weights.ts'
import type { TensorSpec } from './tensors.ts'

/** Appends one tensor row by row. `rowAt` says which row of the values is row `row` of the file. */
export async function writeTensor(
  writer: FileWriter,
  weights: RandomWeights,
  spec: TensorSpec,
  encoding: Encoding,
  rowAt: (row: number) => number = (row) => row,
): Promise<void> {
  const bits = new Uint16Array(spec.columns)
  const encoder = new RowEncoder(encoding, spec.columns)
  const rowBytes = encodedBytes(encoding, spec.columns)
  for (let row = 0; row < spec.rows; row++) {
    weights.row(spec, rowAt(row), bits)
    const room = writer.room(rowBytes)
    encoder.encode(bits, await room)
  }
}
