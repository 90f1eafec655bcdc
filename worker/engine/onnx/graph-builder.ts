import { bytesField, type Field, floatField, intField, join, messageField, textField } from './protobuf.ts'

/** A value in the graph: the output of a node, an input, or a constant. */
export type Value = string

/** What a tensor is made of. */
export type Element = 'float32' | 'float16' | 'int8' | 'uint8' | 'int64'

/** An attribute of a node: a bare number is an integer, as most are. */
export type Attribute =
  | number
  | { readonly float: number }
  | { readonly ints: readonly number[] }
  | { readonly type: Element }
  | { readonly text: string }

/** A dimension: a number where the model fixes it, a letter where it varies between calls. */
export type Dim = number | string

const ELEMENTS: Readonly<Record<Element, number>> = { float32: 1, uint8: 2, int8: 3, int64: 7, float16: 10 }
const IR_VERSION = 10
const OPSET = 21
/** Domain of ONNX Runtime's own operators. */
const MICROSOFT = 'com.microsoft'

/** An output that is no tensor but an empty sequence, and the first of its graph (`SessionSet.run` says what for). */
export const NOTHING = 'nothing'

/** Buffers with their dimensions. */
type Bound = Readonly<Record<string, readonly [data: ArrayBufferView, dims: readonly number[]]>>

interface Node {
  readonly operator: string
  readonly domain: string
  readonly inputs: readonly Value[]
  readonly outputs: readonly Value[]
  readonly attributes: Readonly<Record<string, Attribute>>
}

/** What the scopes of one graph share. */
interface Graph {
  readonly bound: Bound
  readonly nodes: Node[]
  readonly constants: Field[]
  readonly inputs: Map<string, Field>
  readonly outputs: Field[]
  readonly outputNames: Map<Value, string>
  values: number
}

/** Builds a serialised ONNX model node by node. Field numbers are those of onnx.proto3. */
export class GraphBuilder {
  readonly #graph: Graph
  readonly #scope: string

  /** @param bound inputs that become part of the model instead, by name */
  constructor(bound: Bound = {}, { graph = emptyGraph(bound), scope = '' } = {}) {
    this.#graph = graph
    this.#scope = scope
  }

  /**
   * The same graph, for one of several pieces that are alike: the names of its inputs and outputs begin with `name`, but for
   * inputs that the whole graph has by then.
   */
  scope(name: string): GraphBuilder {
    return new GraphBuilder({}, { graph: this.#graph, scope: name })
  }

  input(name: string, dims: readonly Dim[], element: Element = 'float32'): Value {
    const { bound, inputs } = this.#graph
    if (inputs.has(name)) return name
    const own = `${this.#scope}${name}`
    const values = bound[own]
    if (values !== undefined) return this.#initializer(own, element, values)
    if (!inputs.has(own)) inputs.set(own, messageField(11, valueInfo(own, dims, element)))
    return own
  }

  /** An int64 constant: a shape, axes, sizes. */
  ints(...values: number[]): Value {
    return this.#constant('int64', [values.length], new Uint8Array(BigInt64Array.from(values, BigInt).buffer))
  }

  /** A float32 scalar. */
  float(value: number): Value {
    return this.floats([], value)
  }

  /** A float32 tensor. */
  floats(dims: readonly number[], ...values: number[]): Value {
    return this.#constant('float32', dims, new Uint8Array(Float32Array.from(values).buffer))
  }

  /** A uint8 scalar. */
  byte(value: number): Value {
    return this.#constant('uint8', [], Uint8Array.of(value))
  }

  op(type: string, inputs: readonly Value[], attributes: Readonly<Record<string, Attribute>> = {}): Value {
    return this.ops(1, type, inputs, attributes)[0]!
  }

  /** A node with several outputs. `type` is an operator, with `@domain` where it is not one of ONNX's own. */
  ops(count: number, type: string, inputs: readonly Value[], attributes: Node['attributes'] = {}): Value[] {
    const outputs = Array.from({ length: count }, () => this.#fresh())
    const [operator, domain = ''] = type.split('@') as [string, string?]
    this.#graph.nodes.push({ operator, domain, inputs, outputs, attributes })
    return outputs
  }

  /** Makes the result of a node an output of the graph. */
  output(name: string, value: Value, dims: readonly Dim[], element: Element = 'float32'): void {
    const own = `${this.#scope}${name}`
    this.#graph.outputNames.set(value, own)
    this.#graph.outputs.push(messageField(12, valueInfo(own, dims, element)))
  }

  /** For graphs of large outputs that a `SessionSet` runs: see there. */
  buildWithNothing(name: string): Uint8Array {
    this.#graph.outputNames.set(this.op('SequenceEmpty', []), NOTHING)
    this.#graph.outputs.unshift(messageField(12, sequenceInfo(NOTHING)))
    return this.build(name)
  }

  build(name: string): Uint8Array {
    const { nodes, constants, inputs, outputs } = this.#graph
    const encoded = nodes.map((node) => messageField(1, this.#encode(node)))
    const graph = [...encoded, textField(2, name), ...constants, ...inputs.values(), ...outputs]
    return join([
      intField(1, IR_VERSION),
      textField(2, 'headrace'),
      messageField(7, graph),
      messageField(8, [textField(1, ''), intField(2, OPSET)]),
      messageField(8, [textField(1, MICROSOFT), intField(2, 1)]),
    ])
  }

  #encode(node: Node): Field[] {
    const named = (value: Value) => this.#graph.outputNames.get(value) ?? value
    return [
      ...node.inputs.map((value) => textField(1, named(value))),
      ...node.outputs.map((value) => textField(2, named(value))),
      textField(4, node.operator),
      ...Object.entries(node.attributes).map(([name, value]) => messageField(5, attribute(name, value))),
      textField(7, node.domain),
    ]
  }

  #initializer(name: string, element: Element, [data, dims]: Bound[string]): Value {
    return this.#constant(element, dims, new Uint8Array(data.buffer, data.byteOffset, data.byteLength), name)
  }

  #constant(element: Element, dims: readonly number[], raw: Uint8Array, name = this.#fresh()): Value {
    const fields = [
      ...dims.map((d) => intField(1, d)),
      intField(2, ELEMENTS[element]),
      textField(8, name),
      bytesField(9, raw),
    ]
    this.#graph.constants.push(messageField(5, fields))
    return name
  }

  #fresh(): Value {
    this.#graph.values += 1
    return `_${this.#graph.values}`
  }
}

const emptyGraph = (bound: Bound): Graph => ({
  bound,
  nodes: [],
  constants: [],
  inputs: new Map(),
  outputs: [],
  outputNames: new Map(),
  values: 0,
})

function attribute(name: string, value: Attribute): Field[] {
  if (typeof value === 'number') return [textField(1, name), intField(3, value), intField(20, 2)]
  if ('type' in value) return attribute(name, ELEMENTS[value.type])
  if ('text' in value) return [textField(1, name), textField(4, value.text), intField(20, 3)]
  if ('float' in value) return [textField(1, name), floatField(2, value.float), intField(20, 1)]
  return [textField(1, name), ...value.ints.map((n) => intField(8, n)), intField(20, 7)]
}

/** Of float32 tensors. */
function sequenceInfo(name: string): Field[] {
  const tensor = messageField(1, [intField(1, ELEMENTS.float32)])
  return [textField(1, name), messageField(2, [messageField(4, [messageField(1, [tensor])])])]
}

function valueInfo(name: string, dims: readonly Dim[], element: Element): Field[] {
  const shape = dims.map((d) => messageField(1, [typeof d === 'number' ? intField(1, d) : textField(2, d)]))
  const tensorType = [intField(1, ELEMENTS[element]), messageField(2, shape)]
  return [textField(1, name), messageField(2, [messageField(1, tensorType)])]
}
