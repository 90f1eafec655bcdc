import type { Tensor, Tensor2D } from '@tensorflow/tfjs-core'
import type { Floats } from '../host-tensors.ts'
import type { Tf } from './tensorflow.ts'

/**
 * What a decoder layer is made of, over operations that every back end has. On the WASM back end only the product of two
 * plain matrices is fast (a transposed or batched one is a naive loop), and of the functions only `sigmoid` and `softmax`
 * are vectorised: so these are what the others are made from.
 */

/** Root mean square normalisation (arXiv 1910.07467) of each row. */
export function rmsNorm<T extends Tensor>(tf: Tf, x: T, gain_dim: Tensor, epsilon: number): T {
  const mean = tf.mean(tf.square(x), -1, true)
  return tf.mul(tf.mul(x, tf.rsqrt(tf.add(mean, epsilon))), gain_dim) as T
}

export const silu = (tf: Tf, x: Tensor2D): Tensor2D => tf.mul(x, tf.sigmoid(x))

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
