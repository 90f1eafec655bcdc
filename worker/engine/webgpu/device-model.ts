import type { ModelShape } from '../../../shared/model-shape.ts'
import type { Element, GraphBuilder, Value } from '../onnx/graph-builder.ts'

/**
 * What the graphs of a device are made for. What is fast on a CPU is not on a GPU: weights lie `[in, out]` for plain
 * MatMul, all KV heads are one batched product, keys lie transposed, and every operator is one that the provider has a
 * kernel for. Products are in the precision of the weights; the residual stream, norms, biases, rotation, activations and
 * the state of softmax are float32 whatever that is.
 */
export interface DeviceModel {
  readonly shape: ModelShape
  /** Of weights, keys, values and scores. */
  readonly element: 'float32' | 'float16'
}

export const cast = (g: GraphBuilder, value: Value, from: Element, type: Element): Value =>
  from === type ? value : g.op('Cast', [value], { to: { type } })

/** Declares the weight of that name, and returns the product of float32 rows with it, float32 again. */
export function product(
  g: GraphBuilder,
  element: DeviceModel['element'],
  rows: Value,
  width: number,
): (name: string, out: number) => Value {
  const operand = cast(g, rows, 'float32', element)
  return (name, out) => cast(g, g.op('MatMul', [operand, g.input(name, [width, out], element)]), element, 'float32')
}
