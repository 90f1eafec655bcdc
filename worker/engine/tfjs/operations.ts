import type { Tensor, Tensor1D, Tensor2D } from '@tensorflow/tfjs-core'
import type { Activation } from '../../../shared/model-shape.ts'
import type { Floats } from '../host-tensors.ts'
import type { Tf } from './tensorflow.ts'
import type { Matrix } from './weights.ts'

/**
 * What a decoder layer is made of, over operations that every back end has. On the WASM back end only the product of two
 * plain matrices is fast (a transposed or batched one is a naive loop), and of the functions only `sigmoid` and `softmax`
 * are vectorised: so the others are made from these.
 */

/** Root mean square normalisation (arXiv 1910.07467) of each row; the same rows where there is no gain. */
export function rmsNorm<T extends Tensor>(tf: Tf, x: T, gain_dim: Tensor1D | undefined, epsilon: number): T {
  if (gain_dim === undefined) return x
  const mean = tf.mean(tf.square(x), -1, true)
  return tf.mul(tf.mul(x, tf.rsqrt(tf.add(mean, epsilon))), gain_dim) as T
}

/** a times b, and the bias where there is one. */
export function linear(tf: Tf, a_seq_in: Tensor2D, b_in_out: Matrix, bias_out?: Tensor1D): Tensor2D {
  const product = tf.concat2d(
    b_in_out.map((piece) => tf.matMul<Tensor2D>(a_seq_in, piece)),
    1,
  )
  return bias_out ? tf.add(product, bias_out) : product
}

/** cap * tanh(x / cap), or x where there is no cap: tanh(y) is 2 sigmoid(2 y) - 1. */
export function capped<T extends Tensor>(tf: Tf, x: T, cap: number | undefined): T {
  if (cap === undefined) return x
  return tf.sub(tf.mul(tf.sigmoid(tf.mul(x, 2 / cap)), 2 * cap), cap) as T
}

export const scaled = <T extends Tensor>(tf: Tf, x: T, by: number): T => (by === 1 ? x : tf.mul(x, by))

export function activated(tf: Tf, x: Tensor2D, activation: Activation): Tensor2D {
  switch (activation) {
    case 'silu':
      return tf.mul(x, tf.sigmoid(x))
    case 'gelu':
      return tf.mul(x, tf.mul(tf.add(tf.erf(tf.mul(x, Math.SQRT1_2)), 1), 0.5))
    case 'gelu_tanh': {
      const cubed = tf.mul(tf.mul(tf.square(x), x), 0.044715)
      return tf.mul(x, tf.sigmoid(tf.mul(tf.add(x, cubed), 2 * Math.sqrt(2 / Math.PI))))
    }
  }
}

/** A copy of what the tensor holds. */
export const floats = (tensor: Tensor): Floats => tensor.dataSync() as Floats

/** Disposes of every tensor that `compute` made. Unlike `tf.tidy` it does not look for tensors in what it returns. */
export function scoped<T>(tf: Tf, compute: () => T): T {
  tf.engine().startScope()
  try {
    return compute()
  } finally {
    tf.engine().endScope()
  }
}
