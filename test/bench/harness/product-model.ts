import { bytesField, intField, join, messageField, textField } from '../../../worker/engine/onnx/protobuf.ts'
import type { CeilingKind, Product } from './ceiling.ts'

/** Numbers of `TensorProto.DataType`. */
const FLOAT = 1
const UINT8 = 2
const INT8 = 3
const INT32 = 6

/** An ONNX model of one matrix product: `x` [m, k] times constants [k, n] is `y`. `int8` is u8 times s8, summed in int32. */
export function productModel(kind: CeilingKind, { m, k, n }: Product): Uint8Array {
  const f32 = kind === 'f32'
  const constants = f32
    ? [tensor('w', FLOAT, [k, n], new Uint8Array(weights(k * n).buffer))]
    : [
        tensor('w', INT8, [k, n], new Uint8Array(Int8Array.from(weights(k * n), (w) => w * 100).buffer)),
        tensor('zero', UINT8, [], Uint8Array.of(128)),
      ]
  const inputs = f32 ? ['x', 'w'] : ['x', 'w', 'zero']
  const node = [
    ...inputs.map((name) => textField(1, name)),
    textField(2, 'y'),
    textField(4, f32 ? 'MatMul' : 'MatMulInteger'),
  ]
  const graph = [
    messageField(1, node),
    textField(2, 'product'),
    ...constants,
    messageField(11, value('x', f32 ? FLOAT : UINT8, [m, k])),
    messageField(12, value('y', f32 ? FLOAT : INT32, [m, n])),
  ]
  return join([intField(1, 10), messageField(7, graph), messageField(8, [textField(1, ''), intField(2, 20)])])
}

const weights = (count: number): Float32Array =>
  Float32Array.from({ length: count }, (_, i) => ((i * 7919) % 199) / 100 - 1)

const tensor = (name: string, type: number, dims: readonly number[], raw: Uint8Array) =>
  messageField(5, [...dims.map((dim) => intField(1, dim)), intField(2, type), textField(8, name), bytesField(9, raw)])

function value(name: string, type: number, dims: readonly number[]) {
  const shape = dims.map((dim) => messageField(1, [intField(1, dim)]))
  return [textField(1, name), messageField(2, [messageField(1, [intField(1, type), messageField(2, shape)])])]
}
