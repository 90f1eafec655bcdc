import type { ModelShape } from '../../../shared/model-shape.ts'
import type { GraphBuilder, Value } from './graph-builder.ts'
import type { Linear } from './linear/linear.ts'
import { biased, normed } from './parts.ts'

/** Norm, the three projections, q/k norms, rotation of q and k; K and V leave per head, straight into the cache. */
export function projectGraph(shape: ModelShape, linear: Linear, g: GraphBuilder): Uint8Array {
  outputProjected(shape, g, projected(shape, linear, g, g.input('x', [1, 'S', shape.hidden])))
  return g.buildWithNothing('project')
}

/** Each [1, S, heads * headDim], of their own heads. */
export interface Projected {
  readonly q: Value
  readonly k: Value
  readonly v: Value
}

export function projected(shape: ModelShape, { multiplicand }: Linear, g: GraphBuilder, x: Value): Projected {
  const { hidden, heads, kvHeads, headDim, norms } = shape
  const rotated = rotation(shape, g)
  const times = multiplicand(g, norms === 'post' ? x : normed(g, x, 'attention', hidden, shape), hidden)
  const product = (name: 'q' | 'k' | 'v', count: number): Value =>
    biased(g, times(`${name}_weight`, count * headDim), shape.biases.qkv, name, count * headDim)
  return {
    q: rotated(headNormed(shape, g, product('q', heads), 'q', heads), heads),
    k: rotated(headNormed(shape, g, product('k', kvHeads), 'k', kvHeads), kvHeads),
    v: product('v', kvHeads),
  }
}

/** As `q`, heads first, and `k0_out`, `v0_out` and so on. */
export function outputProjected({ heads, kvHeads, headDim }: ModelShape, g: GraphBuilder, of: Projected): void {
  const q_seq_heads_hdim = g.op('Reshape', [of.q, g.ints(-1, heads, headDim)])
  const q_heads_seq_hdim = g.op('Transpose', [q_seq_heads_hdim], { perm: { ints: [1, 0, 2] } })
  g.output('q', q_heads_seq_hdim, [heads, 'S', headDim])
  for (const name of ['k', 'v'] as const)
    g.ops(kvHeads, 'Split', [of[name]], { axis: -1, num_outputs: kvHeads }).forEach((value, head) => {
      g.output(`${name}${head}_out`, value, [1, 'S', headDim])
    })
}

/** cos and sin of the positions of the rows: of the whole graph, if it asks for them before its scopes do. */
export const inputRotation = ({ rotaryDim }: ModelShape, g: GraphBuilder): { cos: Value; sin: Value } => ({
  cos: g.input('cos', ['S', rotaryDim / 2]),
  sin: g.input('sin', ['S', rotaryDim / 2]),
})

export function rotation(shape: ModelShape, g: GraphBuilder): (value: Value, count: number) => Value {
  const { headDim, rotaryDim } = shape
  const { cos, sin } = inputRotation(shape, g)
  const first = g.ints(0) // the tables start at the chunk's own position
  const part = rotaryDim < headDim ? { rotary_embedding_dim: rotaryDim } : {}
  return (value, count) =>
    g.op('RotaryEmbedding@com.microsoft', [value, first, cos, sin], { num_heads: count, interleaved: 0, ...part })
}

export function headNormed(shape: ModelShape, g: GraphBuilder, value: Value, name: 'q' | 'k', count: number): Value {
  const { headDim, qkNorm } = shape
  if (qkNorm === 'none') return value
  if (qkNorm === 'full') return normed(g, value, name, count * headDim, shape)
  const heads = g.op('Reshape', [value, g.ints(-1, count, headDim)])
  return g.op('Reshape', [normed(g, heads, name, headDim, shape), g.ints(1, -1, count * headDim)])
}
