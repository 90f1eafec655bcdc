import type { ModelShape } from '../../../shared/model-shape.ts'
import type { GraphBuilder, Value } from '../onnx/graph-builder.ts'
import { biased, normed, scaled } from '../onnx/parts.ts'
import { headNormed, rotation } from '../onnx/project-graph.ts'
import { cast, type DeviceModel, product } from './device-model.ts'

/**
 * Norm, the three projections, q/k norms, rotation. Queries come out scaled, and those of one KV head's group below each
 * other; keys come out transposed.
 */
export function projectGraph({ shape, element }: DeviceModel, g: GraphBuilder): Uint8Array {
  const { hidden, heads, kvHeads, headDim, norms, scoreScale } = shape
  const x = g.input('x', [1, 'S', hidden])
  const rotated = rotation(shape, g)
  const times = product(g, element, norms === 'post' ? x : normed(g, x, 'attention', hidden, shape), hidden)
  const projected = (name: 'q' | 'k' | 'v', count: number): Value =>
    biased(g, times(`${name}_weight`, count * headDim), shape.biases.qkv, name, count * headDim)
  const turned = (name: 'q' | 'k', count: number): Value =>
    rotated(headNormed(shape, g, projected(name, count), name, count), count)

  const q = scaled(g, turned('q', heads), scoreScale)
  const q_heads_seq_hdim = cast(g, perHead(shape, g, q, heads, [1, 0, 2]), 'float32', element)
  g.output('q', g.op('Reshape', [q_heads_seq_hdim, g.ints(kvHeads, -1, headDim)]), [kvHeads, 'R', headDim], element)
  const k = perHead(shape, g, turned('k', kvHeads), kvHeads, [1, 2, 0])
  g.output('k', cast(g, k, 'float32', element), [kvHeads, headDim, 'S'], element)
  const v = perHead(shape, g, projected('v', kvHeads), kvHeads, [1, 0, 2])
  g.output('v', cast(g, v, 'float32', element), [kvHeads, 'S', headDim], element)
  return g.build('project')
}

const perHead = (
  { headDim }: ModelShape,
  g: GraphBuilder,
  value: Value,
  count: number,
  perm: readonly number[],
): Value => g.op('Transpose', [g.op('Reshape', [value, g.ints(-1, count, headDim)])], { perm: { ints: perm } })
