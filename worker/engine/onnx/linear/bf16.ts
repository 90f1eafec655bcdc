import { halvedIfExact, type Rows, widenRows } from '../../../model/rows.ts'
import { narrowBf16, widenBf16 } from '../../../model/widen.ts'
import type { Floats } from '../../host-tensors.ts'
import { f32Linear } from './f32.ts'
import type { Dense, LinearFormat } from './linear.ts'

/** The bits of a matrix, [out, in]. */
export interface Bf16Matrix {
  readonly bits_out_in: Uint16Array<ArrayBuffer>
  readonly out: number
  readonly in: number
}

/** Rows of the head that are widened at once. */
const HEAD_ROWS = 4096

/**
 * Bfloat16 in memory, widened to float32 just before it is used: there is no product of bfloat16 on CPUs here. A prefill
 * takes all its tokens through a layer before it goes on, so it widens each matrix once; what it costs there is small. A
 * decode step widens the whole model for one token.
 */
export function bf16Linear(): LinearFormat<Bf16Matrix> {
  const scratch = new Map<string, { holds: Uint16Array | undefined; values: Floats }>()
  return {
    keep: ({ values_out_in, out, in: width }) => {
      const bits_out_in = new Uint16Array(values_out_in.length)
      narrowBf16(values_out_in, bits_out_in)
      return { bits_out_in, out, in: width }
    },
    keepStored: {
      BF16: ({ buffer, byteOffset, length }, out, width) => ({
        bits_out_in: new Uint16Array(buffer, byteOffset, length / 2),
        out,
        in: width,
      }),
    },
    keepRows: halvedIfExact,
    keepHead: (rows, dim) => {
      const bits = bitsOf(rows, dim)
      const vocab = rows.length / dim
      return Array.from({ length: Math.ceil(vocab / HEAD_ROWS) }, (_, piece) => {
        const out = Math.min(HEAD_ROWS, vocab - piece * HEAD_ROWS)
        const from = piece * HEAD_ROWS * dim
        return { bits_out_in: bits.subarray(from, from + out * dim), out, in: dim }
      })
    },
    multiplicand: f32Linear.multiplicand,
    slots: (name, { bits_out_in, out, in: width }) => {
      const held = scratch.get(name) ?? { holds: undefined, values: new Float32Array(bits_out_in.length) }
      scratch.set(name, held)
      const values_out_in = held.values.subarray(0, bits_out_in.length)
      if (held.holds !== bits_out_in) widenBf16(bits_out_in, values_out_in)
      held.holds = bits_out_in
      return f32Linear.slots(name, { values_out_in, out, in: width } satisfies Dense)
    },
  }
}

function bitsOf(rows: Rows, dim: number): Bf16Matrix['bits_out_in'] {
  if (rows instanceof Uint16Array) return rows
  const values = rows instanceof Float32Array ? rows : new Float32Array(rows.length)
  if (values !== rows) widenRows(rows, dim, values)
  const bits = new Uint16Array(rows.length)
  narrowBf16(values, bits)
  return bits
}
