import type { Tensor2D } from '@tensorflow/tfjs-core'
import type { ModelShape } from '../../../shared/model-shape.ts'
import type { Mlp } from '../../model/weights.ts'
import { gather, routeRows, scatterAdd } from '../routing.ts'
import { activated, floats, linear, scoped } from './operations.ts'
import type { Tf } from './tensorflow.ts'
import type { Matrix, TfLayer } from './weights.ts'

/** The MLP of a layer, or the experts that each row chooses (arXiv 2401.04088), before any norm or residual. */
export function mlpOutput(tf: Tf, x_seq_dim: Tensor2D, layer: TfLayer, shape: ModelShape): Tensor2D {
  if (layer.router === undefined) return oneMlp(tf, x_seq_dim, layer.mlps[0]!, layer.vectors, shape)
  return expertsOutput(tf, x_seq_dim, layer.mlps, layer.router, shape)
}

function oneMlp(
  tf: Tf,
  x: Tensor2D,
  { gate, up, down }: Mlp<Matrix>,
  { gate_bias, up_bias, down_bias }: TfLayer['vectors'],
  { activation }: ModelShape,
): Tensor2D {
  const gated = activated(tf, linear(tf, x, gate, gate_bias), activation)
  return linear(tf, tf.mul<Tensor2D>(gated, linear(tf, x, up, up_bias)), down, down_bias)
}

/** The router's choice is made here, between products; then each expert sees its own rows at once. */
function expertsOutput(tf: Tf, x: Tensor2D, mlps: TfLayer['mlps'], router: Matrix, shape: ModelShape): Tensor2D {
  const { hidden, experts } = shape
  const x_seq_dim = floats(x)
  const sum_seq_dim = new Float32Array(x_seq_dim.length)
  for (const group of routeRows(floats(linear(tf, x, router)), experts!)) {
    const rows = new Float32Array(group.rows.length * hidden)
    gather(x_seq_dim, hidden, group.rows, rows)
    const y = scoped(tf, () =>
      floats(oneMlp(tf, tf.tensor2d(rows, [group.rows.length, hidden]), mlps[group.expert]!, {}, shape)),
    )
    scatterAdd(sum_seq_dim, hidden, group, y)
  }
  return tf.tensor2d(sum_seq_dim, x.shape)
}
