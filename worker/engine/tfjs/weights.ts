import type { Rank, Tensor1D, Tensor2D } from '@tensorflow/tfjs-core'
import { HeadraceError } from '../../../shared/errors.ts'
import { type ModelShape, parameterCount } from '../../../shared/model-shape.ts'
import { halvedIfExact, type Rows, widenRows } from '../../model/rows.ts'
import type { Keeping, LayerWeights } from '../../model/weights.ts'
import type { Floats } from '../host-tensors.ts'
import type { TensorFlow } from './tensorflow.ts'
import { WASM_BYTES } from './wasm-backend.ts'

/** A matrix as a tensor, in_out: only an untransposed product is fast. */
export type Matrix = Tensor2D

/** A layer with its norms as tensors too. */
export type TfLayer = Omit<LayerWeights<Matrix>, `${string}_dim`> & {
  readonly attentionNorm_dim: Tensor1D
  readonly mlpNorm_dim: Tensor1D
}

/** Room for the tensors of one call: the widest layer that fits beside it needs less. */
const SCRATCH_BYTES = 384 * 2 ** 20

/** Rows of the head in one product: what it makes is small, and a matrix of all rows need not be there twice at once. */
const HEAD_ROWS = 32_768

/**
 * The WASM back end packs a matrix at its first use and keeps it as it was besides, so float32 weights take their size
 * twice. Throws `out_of_memory` where that leaves no room in what WebAssembly can address.
 */
export function checkWasmMemory(shape: ModelShape): void {
  const { vocab, hidden, tiedHead } = shape
  const onHost = tiedHead ? 0 : vocab * hidden // the embedding is a table there
  const needed = 2 * 4 * (parameterCount(shape) - onHost) + SCRATCH_BYTES
  if (needed <= WASM_BYTES) return
  const gib = (bytes: number) => (bytes / 2 ** 30).toFixed(1)
  throw new HeadraceError(
    'out_of_memory',
    `the model takes ${gib(needed)} GiB on the tfjs engine, and WebAssembly ends at ${gib(WASM_BYTES)} GiB: use the onnx engine, or install @tensorflow/tfjs-node`,
  )
}

export function tensorKeeping({ tf }: TensorFlow): Keeping<Matrix, TfLayer> {
  const keep = (values_out_in: Floats, out: number, width: number): Matrix =>
    tf.tidy(() => {
      const matrix_in_out = tf.transpose(tf.tensor2d(values_out_in, [out, width]))
      tf.matMul(tf.zeros<Rank.R2>([1, width]), matrix_in_out) // packs it now: a load fails, not a run
      return matrix_in_out
    })
  return {
    keep: ({ values_out_in, out, in: width }) => keep(values_out_in, out, width),
    keepLayer: ({ attentionNorm_dim, mlpNorm_dim, ...matrices }) => ({
      ...matrices,
      attentionNorm_dim: tf.tensor1d(attentionNorm_dim),
      mlpNorm_dim: tf.tensor1d(mlpNorm_dim),
    }),
    keepRows: halvedIfExact,
    keepHead: (rows_vocab_dim, dim) =>
      Array.from(pieces(rows_vocab_dim, HEAD_ROWS * dim), (piece) => keep(piece, piece.length / dim, dim)),
  }
}

/** The numbers of a table, so many at a time, that it is never there twice as float32. */
function* pieces(rows: Rows, length: number): Generator<Floats> {
  for (let from = 0; from < rows.length; from += length) {
    const part = rows.subarray(from, from + length)
    const values = new Float32Array(part.length)
    widenRows(part, values)
    yield values
  }
}
