import type { Rank, Tensor1D, Tensor2D } from '@tensorflow/tfjs-core'
import { HeadraceError } from '../../../shared/errors.ts'
import { type ModelShape, parameterCount } from '../../../shared/model-shape.ts'
import { halvedIfExact, type Rows, widenRows } from '../../model/rows.ts'
import type { Keeping, LayerWeights, Mlp } from '../../model/weights.ts'
import type { Floats } from '../host-tensors.ts'
import type { TensorFlow, Tf } from './tensorflow.ts'
import { WASM_BYTES } from './wasm-backend.ts'

/** A matrix as a tensor, in_out: only an untransposed product is fast. */
export type Matrix = Tensor2D

type Vectors = LayerWeights<unknown>['vectors']
type TfVectors = { readonly [K in keyof Vectors]: Tensor1D }

/** A part of an MLP: some of its inner width. The parts' outputs add up to the MLP's. */
export interface MlpPart extends Mlp<Matrix> {
  readonly gate_bias: Tensor1D | undefined
  readonly up_bias: Tensor1D | undefined
}

export interface TfLayer {
  readonly vectors: TfVectors
  readonly attention: LayerWeights<Matrix>['attention']
  /** One MLP, or those of the experts. */
  readonly mlps: readonly (readonly MlpPart[])[]
  /** Absent where there is one MLP. */
  readonly router: Matrix | undefined
}

/** Room for the tensors of one call: the widest layer that fits beside it needs less. */
const SCRATCH_BYTES = 384 * 2 ** 20

/** Rows of the head in one product: it need not be there twice at once as it is turned. */
const HEAD_ROWS = 32_768

/** A matrix is read anew for every four rows of a chunk, so one of an MLP is cut to what the processor's cache holds. */
const PART_FLOATS = 2 ** 19

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

/** Matrices wait for their layer as they are read. */
export function tensorKeeping({ tf }: TensorFlow, { hidden }: ModelShape): Keeping<Floats, TfLayer, Matrix> {
  const matrix = (values_out_in: Floats, width: number): Matrix => packed(tf, values_out_in, width)
  return {
    keep: ({ values_out_in }) => values_out_in,
    keepLayer: ({ vectors, attention: { q, k, v, o }, mlp, experts }) => ({
      vectors: vectorTensors(tf, vectors),
      attention: {
        q: matrix(q, hidden),
        k: matrix(k, hidden),
        v: matrix(v, hidden),
        o: matrix(o, o.length / hidden),
      },
      mlps: (mlp ? [mlp] : experts!.mlps).map((one) => mlpParts(tf, one, mlp ? vectors : {}, hidden)),
      router: experts && matrix(experts.router_experts_dim, hidden),
    }),
    keepRows: halvedIfExact,
    keepHead: (rows_vocab_dim, dim) =>
      Array.from(pieces(rows_vocab_dim, HEAD_ROWS * dim), (piece) => matrix(piece, dim)),
  }
}

/** Turned, and packed now rather than at its first use: then a load fails, not a run. */
function packed(tf: Tf, values_out_in: Floats, width: number): Matrix {
  return tf.tidy(() => {
    const matrix_in_out = tf.transpose(tf.tensor2d(values_out_in, [values_out_in.length / width, width]))
    tf.matMul(tf.zeros<Rank.R2>([1, width]), matrix_in_out)
    return matrix_in_out
  })
}

function mlpParts(tf: Tf, { gate, up, down }: Mlp<Floats>, vectors: Vectors, hidden: number): MlpPart[] {
  const ffn = down.length / hidden
  const parts = Math.ceil((hidden * ffn) / PART_FLOATS)
  return Array.from({ length: parts }, (_, part) => {
    const [from, end] = [part, part + 1].map((edge) => Math.round((edge * ffn) / parts)) as [number, number]
    const rows = (of: Floats) => packed(tf, of.subarray(from * hidden, end * hidden), hidden)
    const bias = (of?: Floats) => of && tf.tensor1d(of.subarray(from, end))
    return {
      gate: rows(gate),
      up: rows(up),
      down: packed(tf, columns(down, ffn, from, end), end - from),
      gate_bias: bias(vectors.gate_bias),
      up_bias: bias(vectors.up_bias),
    }
  })
}

function columns(values_out_in: Floats, width: number, from: number, end: number): Floats {
  if (end - from === width) return values_out_in
  const part = new Float32Array((values_out_in.length / width) * (end - from))
  for (let out = 0; out * width < values_out_in.length; out++)
    part.set(values_out_in.subarray(out * width + from, out * width + end), out * (end - from))
  return part
}

const vectorTensors = (tf: Tf, vectors: Vectors): TfVectors =>
  Object.fromEntries(Object.entries(vectors).map(([name, values]) => [name, tf.tensor1d(values)]))

/** The numbers of a table, so many at a time, that it is never there twice as float32. */
function* pieces(rows: Rows, length: number): Generator<Floats> {
  for (let from = 0; from < rows.length; from += length) {
    const part = rows.subarray(from, from + length)
    const values = new Float32Array(part.length)
    widenRows(part, values)
    yield values
  }
}
