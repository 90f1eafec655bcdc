import type { Weights } from './engine-name.ts'

/**
 * What the numbers of a worker are true to. Two workers of one class agree within the tolerance of `headrace verify`,
 * whatever their engines and devices: all sum in float32, in another order. Another class is another answer.
 */
export const PRECISIONS = ['f32', 'bf16', 'f16', 'int8', 'int4'] as const
export type Precision = (typeof PRECISIONS)[number]

export interface Numerics {
  readonly weights: Weights
  /** Every weight of the checkpoint is a bfloat16 number, so that keeping it as one changes nothing. */
  readonly bf16Checkpoint: boolean
}

export function precisionOf({ weights, bf16Checkpoint }: Numerics): Precision {
  return weights === 'bf16' && bf16Checkpoint ? 'f32' : weights
}
