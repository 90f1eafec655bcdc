import type { Tensor, Tensor2D, Tensor3D } from '@tensorflow/tfjs-core'
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

/** Rotary embedding: element i turns with element i + width / 2, as in the checkpoints of transformers. */
export function rotate(tf: Tf, x_seq_heads_hdim: Tensor3D, cos_seq_1_pairs: Tensor3D, sin_seq_1_pairs: Tensor3D) {
  const pairs = cos_seq_1_pairs.shape[2]
  const first = tf.slice(x_seq_heads_hdim, [0, 0, 0], [-1, -1, pairs])
  const second = tf.slice(x_seq_heads_hdim, [0, 0, pairs], [-1, -1, pairs])
  const turned = [
    tf.sub(tf.mul(first, cos_seq_1_pairs), tf.mul(second, sin_seq_1_pairs)),
    tf.add(tf.mul(second, cos_seq_1_pairs), tf.mul(first, sin_seq_1_pairs)),
  ]
  return tf.concat(turned, 2) as Tensor3D
}

export const silu = (tf: Tf, x: Tensor2D): Tensor2D => tf.mul(x, tf.sigmoid(x))

/** A copy of what the tensor holds. */
export const floats = (tensor: Tensor): Floats => tensor.dataSync() as Floats
