import type { Rank, Tensor1D, Tensor2D } from '@tensorflow/tfjs-core'
import { HeadraceError } from '../../../shared/errors.ts'
import { type ModelShape, parameterCount } from '../../../shared/model-shape.ts'
import { halvedIfExact, type Rows, rowReader } from '../../model/rows.ts'
import type { Keeping, LayerWeights, Mlp } from '../../model/weights.ts'
import type { TensorFlow } from './tensorflow.ts'
import { WASM_BYTES } from './wasm-backend.ts'

/** A matrix in_out, as only an untransposed product is fast: some of its columns in each tensor. */
export type Matrix = readonly Tensor2D[]

type Vectors = LayerWeights<unknown>['vectors']
type TfVectors = { readonly [K in keyof Vectors]: Tensor1D }

export interface TfLayer {
  readonly vectors: TfVectors
  readonly attention: LayerWeights<Matrix>['attention']
  /** One, or those of the experts. */
  readonly mlps: readonly Mlp<Matrix>[]
  /** Absent where there is one MLP. */
  readonly router: Matrix | undefined
}

/** Room for the tensors of one call: the widest layer that fits beside it needs less. */
const SCRATCH_BYTES = 384 * 2 ** 20

/**
 * Numbers of a tensor of a matrix. The WASM back end reads it anew for every four rows of a chunk, so it is to stay in the
 * processor's cache: a matrix of 2048 x 4096 takes 1.7 times as long in one piece.
 */
const PIECE_FLOATS = 2 ** 19
/** The same of the head, which only ever has one row to go through it: it need not be there twice at once as it is turned. */
const HEAD_PIECE_FLOATS = 2 ** 24

/**
 * The WASM back end packs a matrix at its first use and keeps it as it was besides, so float32 weights take their size
 * twice; the embedding is a table of the host. Throws `out_of_memory` where that leaves no room in what WebAssembly can
 * address.
 */
export function checkWasmMemory(shape: ModelShape, head: boolean): void {
  const { vocab, hidden, tiedHead } = shape
  const onHost = (tiedHead ? 1 : 2) - (head ? 1 : 0)
  const needed = 2 * 4 * (parameterCount(shape) - onHost * vocab * hidden) + SCRATCH_BYTES
  if (needed <= WASM_BYTES) return
  const gib = (bytes: number) => (bytes / 2 ** 30).toFixed(1)
  throw new HeadraceError(
    'out_of_memory',
    `the model takes ${gib(needed)} GiB on the tfjs engine, and WebAssembly ends at ${gib(WASM_BYTES)} GiB: use the onnx engine, or install @tensorflow/tfjs-node`,
  )
}

export function tensorKeeping(flow: TensorFlow, head: boolean): Keeping<Matrix, TfLayer, Matrix> {
  const { tf, keep } = flow
  return {
    keep: ({ values_out_in, in: width }) => matrix(flow, values_out_in, width, PIECE_FLOATS),
    keepLayer: ({ vectors, attention, mlp, experts }) => ({
      vectors: Object.fromEntries(Object.entries(vectors).map(([name, values]) => [name, keep(tf.tensor1d(values))])),
      attention,
      mlps: mlp ? [mlp] : experts!.mlps,
      router: experts && matrix(flow, experts.router_experts_dim, attention.q[0]!.shape[0], PIECE_FLOATS),
    }),
    keepRows: halvedIfExact,
    keepHead: head ? (rows_vocab_dim, dim) => [matrix(flow, rows_vocab_dim, dim, HEAD_PIECE_FLOATS)] : undefined,
  }
}

/** Turned, and packed now rather than at its first use: then a load fails, not a run. */
function matrix({ tf, keep }: TensorFlow, rows_out_in: Rows, width: number, pieceFloats: number): Matrix {
  const out = rows_out_in.length / width
  const count = Math.ceil(rows_out_in.length / pieceFloats)
  const edge = (piece: number) => Math.round((piece * out) / count)
  const read = rowReader(rows_out_in, width)
  return Array.from({ length: count }, (_, piece) => {
    const [from, end] = [edge(piece), edge(piece + 1)]
    const values = new Float32Array((end - from) * width)
    for (let row = from; row < end; row++) values.set(read(row), (row - from) * width)
    const turned = tf.tidy(() => {
      const piece_in_out = tf.transpose(tf.tensor2d(values, [end - from, width]))
      tf.matMul(tf.zeros<Rank.R2>([1, width]), piece_in_out)
      return piece_in_out
    })
    return keep(turned)
  })
}
