import { bytesField, type Field, floatField, intField, join, messageField, textField } from './protobuf.ts'

/** A value in the graph: the output of a node, an input, or a constant. */
export type Value = string

/** What a tensor is made of. */
export type Element = 'float32' | 'float16' | 'int8' | 'uint8' | 'int64' | 'bool'

/** An attribute of a node: a bare number is an integer, as most are. */
export type Attribute =
  | number
  | { readonly float: number }
  | { readonly ints: readonly number[] }
  | { readonly type: Element }
  | { readonly text: string }
  | { readonly graph: () => Field[] }

/** A dimension: a number where the model fixes it, a letter where it varies between calls. */
export type Dim = number | string

const ELEMENTS: Readonly<Record<Element, number>> = { float32: 1, uint8: 2, int8: 3, int64: 7, bool: 9, float16: 10 }
const IR_VERSION = 10
const OPSET = 21
/** Domain of ONNX Runtime's own operators. */
const MICROSOFT = 'com.microsoft'

/** An output that is no tensor but an empty sequence, and the first of its graph (`SessionSet.run` says what for). */
export const NOTHING = 'nothing'

/** Buffers with their dimensions. */
type Bound = Readonly<Record<string, readonly [data: ArrayBufferView, dims: readonly number[]]>>

type Branch = (g: GraphBuilder) => Value[]

interface Node {
  readonly operator: string
  readonly domain: string
  readonly inputs: readonly Value[]
  readonly outputs: readonly Value[]
  readonly attributes: Readonly<Record<string, Attribute>>
}

/** Builds a serialised ONNX model node by node. Field numbers are those of onnx.proto3. */
export class GraphBuilder {
  readonly #nodes: Node[] = []
  readonly #constants: Field[] = []
  readonly #inputs: Field[] = []
  readonly #outputs: Field[] = []
  readonly #outputNames: Map<Value, string>
  readonly #bound: Bound
  /** Of a branch: the graph that it is part of. */
  readonly #around: GraphBuilder | undefined
  #values = 0

  /** @param bound inputs that become part of the model instead, by name */
  constructor(bound: Bound = {}, around?: GraphBuilder) {
    this.#bound = bound
    this.#around = around
    this.#outputNames = around === undefined ? new Map() : around.#outputNames
  }

  input(name: string, dims: readonly Dim[], element: Element = 'float32'): Value {
    if (this.#around !== undefined) return this.#around.input(name, dims, element)
    const bound = this.#bound[name]
    if (bound !== undefined) return this.#initializer(name, element, bound)
    this.#inputs.push(messageField(11, valueInfo(name, dims, element)))
    return name
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
    this.#nodes.push({ operator, domain, inputs, outputs, attributes })
    return outputs
  }

  /**
   * What one of two branches gives, as `condition` (a bool scalar) says; the other is not computed. Both give as many
   * values, results of nodes, and may use values of this graph.
   */
  choose(condition: Value, then: Branch, otherwise: Branch): Value[] {
    const [chosen, left] = [new GraphBuilder(this.#bound, this), new GraphBuilder(this.#bound, this)]
    const [values, others] = [then(chosen), otherwise(left)]
    return this.ops(values.length, 'If', [condition], {
      then_branch: { graph: () => chosen.#branch(values) },
      else_branch: { graph: () => left.#branch(others) },
    })
  }

  #branch(values: readonly Value[]): Field[] {
    const outputs = values.map((value) => messageField(12, [textField(1, value)]))
    return [...this.#encodedNodes(), textField(2, 'branch'), ...this.#constants, ...outputs]
  }

  /** Makes the result of a node an output of the graph. */
  output(name: string, value: Value, dims: readonly Dim[], element: Element = 'float32'): void {
    this.#outputNames.set(value, name)
    this.#outputs.push(messageField(12, valueInfo(name, dims, element)))
  }

  /** For graphs of large outputs that a `SessionSet` runs: see there. */
  buildWithNothing(name: string): Uint8Array {
    this.#outputNames.set(this.op('SequenceEmpty', []), NOTHING)
    this.#outputs.unshift(messageField(12, sequenceInfo(NOTHING)))
    return this.build(name)
  }

  build(name: string): Uint8Array {
    const graph = [...this.#encodedNodes(), textField(2, name), ...this.#constants, ...this.#inputs, ...this.#outputs]
    return join([
      intField(1, IR_VERSION),
      textField(2, 'headrace'),
      messageField(7, graph),
      messageField(8, [textField(1, ''), intField(2, OPSET)]),
      messageField(8, [textField(1, MICROSOFT), intField(2, 1)]),
    ])
  }

  #encodedNodes(): Field[] {
    return this.#nodes.map((node) => messageField(1, this.#encode(node)))
  }

  #encode(node: Node): Field[] {
    const named = (value: Value) => this.#outputNames.get(value) ?? value
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
    this.#constants.push(messageField(5, fields))
    return name
  }

  /** Names of a branch must be other than those around it. */
  #fresh(): Value {
    if (this.#around !== undefined) return this.#around.#fresh()
    this.#values += 1
    return `_${this.#values}`
  }
}

function attribute(name: string, value: Attribute): Field[] {
  if (typeof value === 'number') return [textField(1, name), intField(3, value), intField(20, 2)]
  if ('type' in value) return attribute(name, ELEMENTS[value.type])
  if ('text' in value) return [textField(1, name), textField(4, value.text), intField(20, 3)]
  if ('graph' in value) return [textField(1, name), messageField(6, value.graph()), intField(20, 5)]
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
