import type { ModelShape } from './model-shape.ts'
import type { Wire } from './plan.ts'

const NUMBER_BYTES: Readonly<Record<Wire, number>> = { f32: 4, f16: 2, int8: 1 }
/** One float32 per head and token. */
const SCALE_BYTES: Readonly<Record<Wire, number>> = { f32: 0, f16: 0, int8: 4 }

/** Bytes that K and V of `tokens` tokens of one layer take on the wire. */
export function wireBytes({ kvHeads, headDim }: Heads, tokens: number, wire: Wire): number {
  return 2 * kvHeads * tokens * (headDim * NUMBER_BYTES[wire] + SCALE_BYTES[wire])
}

type Heads = Pick<ModelShape, 'kvHeads' | 'headDim'>
