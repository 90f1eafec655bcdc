import type { ModelShape } from '../../../shared/model-shape.ts'
import { halvedIfExact, type Rows, widenRows } from '../../model/rows.ts'
import { type LayerWeights, loadWeights } from '../../model/weights.ts'
import type { Dense } from '../onnx/linear/linear.ts'
import { type DeviceSessions, type DeviceTensor, type DeviceTensors, hostTensor } from './device-sessions.ts'

/** A model's weights on the device, under the names of the graphs' inputs. */
export interface DeviceWeights {
  /** Stays with the host: a chunk needs a few rows of it. */
  readonly embedding_vocab_dim: Rows
  readonly layers: readonly { readonly project: DeviceTensors; readonly mix: DeviceTensors }[]
  /** The head in pieces, one below the other: many devices bind no buffer of its size. */
  readonly head: readonly DeviceTensors[]
}

/** Numbers of a piece of the head. */
const HEAD_PIECE = 32 << 20

/** Reads the model of a folder; of a matrix, only what is on the device stays. */
export async function loadDeviceWeights(
  folder: string,
  shape: ModelShape,
  sessions: DeviceSessions,
): Promise<DeviceWeights> {
  const { embedding_vocab_dim, layers, finalNorm_dim, head } = await loadWeights(folder, shape, {
    keep: (matrix: Dense) => matrix,
    keepLayer: (layer: LayerWeights<Dense>) => uploadLayer(sessions, layer),
    keepRows: halvedIfExact,
    keepHead: headPieces,
  })
  const gain = await uploadVector(sessions, finalNorm_dim)
  const pieces: DeviceTensors[] = []
  for (const piece of head) pieces.push({ gain, head_weight: await uploadMatrix(sessions, densePiece(piece)) })
  return { embedding_vocab_dim, layers, head: pieces }
}

export function disposeWeights({ layers, head }: DeviceWeights): void {
  const all = [...layers.flatMap(({ project, mix }) => [project, mix]), ...head].flatMap(Object.values)
  for (const tensor of new Set<DeviceTensor>(all)) tensor.dispose()
}

async function uploadLayer(sessions: DeviceSessions, layer: LayerWeights<Dense>) {
  const matrix = (of: Dense) => uploadMatrix(sessions, of)
  return {
    project: {
      gain: await uploadVector(sessions, layer.attentionNorm_dim),
      q_weight: await matrix(layer.q),
      k_weight: await matrix(layer.k),
      v_weight: await matrix(layer.v),
    },
    mix: {
      gain: await uploadVector(sessions, layer.mlpNorm_dim),
      o_weight: await matrix(layer.o),
      gate_weight: await matrix(layer.gate),
      up_weight: await matrix(layer.up),
      down_weight: await matrix(layer.down),
    },
  }
}

async function uploadMatrix(sessions: DeviceSessions, { values_out_in, out, in: width }: Dense): Promise<DeviceTensor> {
  const { y } = await sessions.run('matrix', { x: hostTensor(values_out_in, [out, width]) })
  return y!
}

async function uploadVector(sessions: DeviceSessions, values: Float32Array<ArrayBuffer>): Promise<DeviceTensor> {
  const { y } = await sessions.run('vector', { x: hostTensor(values, [values.length]) })
  return y!
}

/** A piece of the head, its rows widened only when it is uploaded. */
interface HeadPiece {
  readonly rows: Rows
  readonly dim: number
}

function headPieces(rows: Rows, dim: number): HeadPiece[] {
  const step = Math.max(1, Math.floor(HEAD_PIECE / dim)) * dim
  return Array.from({ length: Math.ceil(rows.length / step) }, (_, i) => ({
    rows: rows.subarray(i * step, (i + 1) * step),
    dim,
  }))
}

function densePiece({ rows, dim }: HeadPiece): Dense {
  const values_out_in = new Float32Array(rows.length)
  widenRows(rows, values_out_in)
  return { values_out_in, out: rows.length / dim, in: dim }
}
