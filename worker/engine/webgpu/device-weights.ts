import type { ModelShape } from '../../../shared/model-shape.ts'
import { gatherRows, halvedIfExact, type Rows } from '../../model/rows.ts'
import { type LayerWeights, loadWeights, type Mlp } from '../../model/weights.ts'
import type { Floats } from '../host-tensors.ts'
import type { Dense } from '../onnx/linear/linear.ts'
import { type DeviceSessions, type DeviceTensor, type DeviceTensors, hostTensor } from './device-sessions.ts'

/** A model's weights on the device, under the names of the graphs' inputs. */
export interface DeviceWeights {
  /** Stays with the host: a chunk needs a few rows of it. */
  readonly embedding_vocab_dim: Rows
  readonly layers: readonly DeviceLayer[]
  readonly final_norm: DeviceTensor
  /** The head in pieces, one below the other: many devices bind no buffer of its size. None where no logits are needed. */
  readonly head: readonly DeviceTensor[]
}

interface DeviceLayer {
  readonly project: DeviceTensors
  /** Of `mix`, or of `join` where the layer has experts. */
  readonly mix: DeviceTensors
  /** None where it has not. */
  readonly experts: readonly DeviceTensors[]
}

/** Numbers of a piece of the head. */
const HEAD_PIECE = 32 << 20
/** The vectors that `project` reads; the others are for `mix`. */
const PROJECT_VECTORS: ReadonlySet<string> = new Set([
  'attention_norm',
  'q_norm',
  'k_norm',
  'q_bias',
  'k_bias',
  'v_bias',
])

/** Reads the model of a folder; of a matrix, only what is on the device stays. */
export async function loadDeviceWeights(
  folder: string,
  shape: ModelShape,
  sessions: DeviceSessions,
  hasHead = true,
): Promise<DeviceWeights> {
  const upload = new Upload(sessions)
  const { embedding_vocab_dim, layers, finalNorm_dim, head } = await loadWeights(folder, shape, {
    keep: (matrix: Dense) => matrix,
    keepLayer: (layer: LayerWeights<Dense>) => upload.layer(layer),
    keepRows: halvedIfExact,
    keepHead: hasHead ? headPieces : undefined,
  })
  const final_norm = await upload.vector(finalNorm_dim)
  const pieces: DeviceTensor[] = []
  for (const piece of head) pieces.push(await upload.matrix(densePiece(piece)))
  return { embedding_vocab_dim, layers, final_norm, head: pieces }
}

export function disposeWeights({ layers, final_norm, head }: DeviceWeights): void {
  const groups = layers.flatMap(({ project, mix, experts }) => [project, mix, ...experts])
  for (const tensor of new Set([...groups.flatMap(Object.values<DeviceTensor>), final_norm, ...head])) tensor.dispose()
}

class Upload {
  readonly #sessions: DeviceSessions

  constructor(sessions: DeviceSessions) {
    this.#sessions = sessions
  }

  async layer({ vectors, attention, mlp, experts }: LayerWeights<Dense>): Promise<DeviceLayer> {
    const { q, k, v, o } = attention
    const project = await this.#matrices({ q, k, v })
    const mix: Record<string, DeviceTensor> = await this.#matrices({ o, ...mlp })
    for (const [name, values] of Object.entries(vectors)) {
      const into = PROJECT_VECTORS.has(name) ? project : mix
      into[name] = await this.vector(values)
    }
    if (experts === undefined) return { project, mix, experts: [] }
    mix['router_weight'] = await this.#router(experts.router_experts_dim, q.in)
    const all: DeviceTensors[] = []
    for (const expert of experts.mlps) all.push(await this.#matrices({ ...expert } satisfies Mlp<Dense>))
    return { project, mix, experts: all }
  }

  async matrix({ values_out_in, out, in: width }: Dense): Promise<DeviceTensor> {
    return this.#run('matrix', values_out_in, [out, width])
  }

  async vector(values: Floats): Promise<DeviceTensor> {
    return this.#run('vector', values, [values.length])
  }

  /** float32 as it is: a few numbers that decide which of the others count. */
  async #router(values_experts_dim: Floats, dim: number): Promise<DeviceTensor> {
    const experts = values_experts_dim.length / dim
    const values_dim_experts = values_experts_dim.map(
      (_, i) => values_experts_dim[(i % experts) * dim + Math.floor(i / experts)]!,
    )
    return this.#run('table', values_dim_experts, [dim, experts])
  }

  async #matrices(of: Readonly<Record<string, Dense>>): Promise<Record<string, DeviceTensor>> {
    const tensors: Record<string, DeviceTensor> = {}
    for (const [name, matrix] of Object.entries(of)) tensors[`${name}_weight`] = await this.matrix(matrix)
    return tensors
  }

  async #run(kind: string, values: Floats, dims: readonly number[]): Promise<DeviceTensor> {
    const { y } = await this.#sessions.run(kind, { x: hostTensor(values, dims) })
    return y!
  }
}

/** Consecutive rows of the head, widened only when they are uploaded. */
interface HeadPiece {
  readonly table: Rows
  readonly dim: number
  readonly from: number
  readonly out: number
}

function headPieces(table: Rows, dim: number): HeadPiece[] {
  const vocab = table.length / dim
  const step = Math.max(1, Math.floor(HEAD_PIECE / dim))
  return Array.from({ length: Math.ceil(vocab / step) }, (_, i) => ({
    table,
    dim,
    from: i * step,
    out: Math.min(step, vocab - i * step),
  }))
}

function densePiece({ table, dim, from, out }: HeadPiece): Dense {
  const values_out_in = new Float32Array(out * dim)
  const ids = Int32Array.from({ length: out }, (_, i) => from + i)
  gatherRows(ids, table, dim, values_out_in)
  return { values_out_in, out, in: dim }
}
