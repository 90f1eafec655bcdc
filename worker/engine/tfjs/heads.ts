import type { RopeRows } from '../../model/rope-table.ts'
import type { Floats } from '../host-tensors.ts'

/** From the order of a projection to that of a cache: x_heads_seq_hdim of x_seq_heads_hdim. */
export function headsFirst(x_seq_heads_hdim: Floats, heads: number, headDim: number): Floats {
  const x_heads_seq_hdim = new Float32Array(x_seq_heads_hdim.length)
  eachVector(x_seq_heads_hdim.length, heads, headDim, (from, to) => {
    x_heads_seq_hdim.set(x_seq_heads_hdim.subarray(from, from + headDim), to)
  })
  return x_heads_seq_hdim
}

/**
 * The same with rotary embedding: element i turns with element i + pairs, as in the checkpoints of transformers, and others
 * stay. A plain loop, as the operations of it (cut, four products, join) would each write all of it anew.
 */
export function rotatedHeadsFirst(x_seq_heads_hdim: Floats, heads: number, headDim: number, angles: RopeRows): Floats {
  const x_heads_seq_hdim = new Float32Array(x_seq_heads_hdim.length)
  const pairs = angles.cos.length / (x_seq_heads_hdim.length / (heads * headDim))
  eachVector(x_seq_heads_hdim.length, heads, headDim, (from, to, position) => {
    for (let i = 0; i < pairs; i++) {
      const cos = angles.cos[position * pairs + i]!
      const sin = angles.sin[position * pairs + i]!
      const first = x_seq_heads_hdim[from + i]!
      const second = x_seq_heads_hdim[from + pairs + i]!
      x_heads_seq_hdim[to + i] = first * cos - second * sin
      x_heads_seq_hdim[to + pairs + i] = second * cos + first * sin
    }
    x_heads_seq_hdim.set(x_seq_heads_hdim.subarray(from + 2 * pairs, from + headDim), to + 2 * pairs)
  })
  return x_heads_seq_hdim
}

type Visit = (from: number, to: number, position: number) => void

function eachVector(length: number, heads: number, headDim: number, visit: Visit): void {
  const seq = length / (heads * headDim)
  for (let position = 0; position < seq; position++)
    for (let head = 0; head < heads; head++)
      visit((position * heads + head) * headDim, (head * seq + position) * headDim, position)
}
