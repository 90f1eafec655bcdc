import type { Tensor2D } from '@tensorflow/tfjs-core'
import type { ModelShape } from '../../../shared/model-shape.ts'
import { gather, routeRows, scatterAdd } from '../routing.ts'
import { activated, floats, linear, scoped } from './operations.ts'
import type { Tf } from './tensorflow.ts'
import type { MlpPart, TfLayer } from './weights.ts'

/** The MLP of a layer, or the experts that each row chooses (arXiv 2401.04088), before any norm or residual. */
export function mlpOutput(
  tf: Tf,
  x_seq_dim: Tensor2D,
  { mlps, router, vectors }: TfLayer,
  shape: ModelShape,
): Tensor2D {
  if (router !== undefined) return expertsOutput(tf, x_seq_dim, mlps, router, shape)
  const sum = partsOutput(tf, x_seq_dim, mlps[0]!, shape)
  return vectors.down_bias ? tf.add(sum, vectors.down_bias) : sum
}

function partsOutput(tf: Tf, x: Tensor2D, parts: readonly MlpPart[], { activation }: ModelShape): Tensor2D {
  const outputs = parts.map(({ gate, gate_bias, up, up_bias, down }) => {
    const gated = activated(tf, linear(tf, x, gate, gate_bias), activation)
    return tf.matMul<Tensor2D>(tf.mul<Tensor2D>(gated, linear(tf, x, up, up_bias)), down)
  })
  return outputs.reduce((sum, output) => tf.add(sum, output))
}

/** The router's choice is made here, between products; then each expert sees its own rows at once. */
function expertsOutput(tf: Tf, x: Tensor2D, mlps: TfLayer['mlps'], router: Tensor2D, shape: ModelShape): Tensor2D {
  const { hidden, experts } = shape
  const x_seq_dim = floats(x)
  const sum_seq_dim = new Float32Array(x_seq_dim.length)
  for (const group of routeRows(floats(tf.matMul(x, router)), experts!)) {
    const rows = new Float32Array(group.rows.length * hidden)
    gather(x_seq_dim, hidden, group.rows, rows)
    const y = scoped(tf, () =>
      floats(partsOutput(tf, tf.tensor2d(rows, [group.rows.length, hidden]), mlps[group.expert]!, shape)),
    )
    scatterAdd(sum_seq_dim, hidden, group, y)
  }
  return tf.tensor2d(sum_seq_dim, x.shape)
}
