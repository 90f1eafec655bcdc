import type { ModelShape } from '../../../shared/model-shape.ts'
import type { GraphBuilder, Value } from './graph-builder.ts'
import type { Linear } from './linear/linear.ts'
import { mixed, normalised } from './mix-graph.ts'
import { attendStep } from './one-row.ts'
import { inputRotation, outputProjected, type Projected, projected } from './project-graph.ts'
import type { Slot, Slots } from './session-set.ts'

/** How the names begin that a layer has for itself, in a graph of several that counts them from 0. */
export const layerScope = (at: number): string => `layer${at}.`

/**
 * One token through consecutive layers of one `LayerShape`: `project`, attention to itself and to the keys before it, and
 * `mix` of each. In three calls a layer, with the tensors between them, a token of an answer would take a fifth longer. The K
 * and V of all leave as `kv`, [1, 1, layers * 2 * kvHeads * headDim], in one piece, since each tensor that a call reads or
 * writes costs it three microseconds.
 */
export function stepGraph(shape: ModelShape, linear: Linear, g: GraphBuilder, layers: number): Uint8Array {
  inputRotation(shape, g)
  const made: Value[] = []
  let x = g.input('x', [1, 1, shape.hidden])
  for (let at = 0; at < layers; at++) {
    const layer = g.scope(layerScope(at))
    const own = projected(shape, linear, layer, x)
    made.push(own.k, own.v)
    x = mixed(shape, linear, layer, { attention: attendStep(shape, layer, own), x })
  }
  outputStep(shape, g, made, x)
  return g.build('step')
}

/**
 * The same, and the halves of each layer too, so that weights which the session packs are packed, and kept, once. Each
 * call sends rows through the nodes that it needs, and none through the others: a step's row `x` goes from layer to layer;
 * `project_rows` and `mix_rows` say how many rows of `project_x` and `mix_x` are for each layer, where they leave again.
 * Conditional nodes would be read more easily, but each takes fifteen microseconds.
 */
export function layersGraph(shape: ModelShape, linear: Linear, g: GraphBuilder, layers: number): Uint8Array {
  const { hidden } = shape
  inputRotation(shape, g)
  const perLayer = (value: Value, rows: Value): Value[] => g.ops(layers, 'Split', [value, rows], { axis: 1 })
  const [toProject, toMix] = [g.input('project_rows', [layers], 'int64'), g.input('mix_rows', [layers], 'int64')]
  const projecting = perLayer(g.input('project_x', [1, 'P', hidden]), toProject)
  const mixing = perLayer(g.input('mix_x', [1, 'M', hidden]), toMix)
  const gathered = perLayer(normalised(shape, g, 'M'), toMix)
  const [steps, from, rows] = [g.input('step_rows', [1], 'int64'), g.ints(0), g.ints(1)]
  const ofStep = (value: Value): Value => g.op('Slice', [value, from, steps, rows])
  const both = (...values: Value[]): Value => g.op('Concat', values, { axis: 1 })

  const made: Value[] = []
  let x = g.input('x', [1, 'C', hidden])
  for (let at = 0; at < layers; at++) {
    const layer = g.scope(layerScope(at))
    const all = projected(shape, linear, layer, both(x, projecting[at]!))
    outputProjected(shape, layer, all)
    const own = firstRow(shape, g, all)
    made.push(own.k, own.v)
    const attention = both(ofStep(attendStep(shape, layer, own)), gathered[at]!)
    const y = mixed(shape, linear, layer, { attention, x: both(x, mixing[at]!) })
    layer.output('y', y, [1, 'M', hidden])
    x = ofStep(y)
  }
  outputStep(shape, g, made, x)
  return g.buildWithNothing('layers')
}

/** What attention of a step reads, which must not be of no rows: a row of zeros, where there is none. */
function firstRow({ heads, kvHeads, headDim }: ModelShape, g: GraphBuilder, { q, k, v }: Projected): Projected {
  const widths = [heads * headDim, kvHeads * headDim, kvHeads * headDim]
  const width = (heads + 2 * kvHeads) * headDim
  const none = g.floats([1, 1, width], ...Array<number>(width).fill(0))
  const rows = g.op('Concat', [g.op('Concat', [q, k, v], { axis: 2 }), none], { axis: 1 })
  const row = g.op('Slice', [rows, g.ints(0), g.ints(1), g.ints(1)])
  const own = g.ops(3, 'Split', [row, g.ints(...widths)], { axis: 2 })
  return { q: own[0]!, k: own[1]!, v: own[2]! }
}

function outputStep({ hidden, kvHeads, headDim }: ModelShape, g: GraphBuilder, made: readonly Value[], x: Value): void {
  g.output('kv', g.op('Concat', made, { axis: -1 }), [1, 1, made.length * kvHeads * headDim])
  g.output('y', x, [1, 'C', hidden])
}

/** What a call of `layersGraph` reads, by what it is for; a half takes and gives what the graph of that half alone does. */
export class PartSlots {
  readonly #unread: Slots
  readonly #layers: number
  readonly step: Slots

  constructor({ hidden, heads, kvHeads, headDim, rotaryDim }: ModelShape, layers: number) {
    const unread: Record<string, Slot> = {
      x: [EMPTY, [1, 0, hidden]],
      project_x: [EMPTY, [1, 0, hidden]],
      mix_x: [EMPTY, [1, 0, hidden]],
      cos: [EMPTY, [0, rotaryDim / 2]],
      sin: [EMPTY, [0, rotaryDim / 2]],
      o: [EMPTY, [heads, 0, headDim]],
      l: [EMPTY, [heads, 0, 1]],
      step_rows: counts([0]),
      project_rows: counts(Array<number>(layers).fill(0)),
      mix_rows: counts(Array<number>(layers).fill(0)),
    }
    for (let at = 0; at < layers; at++)
      for (let head = 0; head < kvHeads; head++)
        for (const name of ['k', 'v']) unread[`${layerScope(at)}${name}${head}`] = [EMPTY, [1, 0, headDim]]
    this.#unread = unread
    this.#layers = layers
    this.step = { ...unread, step_rows: counts([1]) }
  }

  half(part: 'project' | 'mix', at: number, { x, ...others }: Slots): Slots {
    const rows = Array<number>(this.#layers).fill(0)
    rows[at] = x![1][1]!
    return { ...this.#unread, ...others, [`${part}_x`]: x!, [`${part}_rows`]: counts(rows) }
  }

  /** Where a layer's half writes. */
  written(at: number, outputs: Slots): Slots {
    return Object.fromEntries(Object.entries(outputs).map(([name, slot]) => [`${layerScope(at)}${name}`, slot]))
  }
}

const EMPTY = new Float32Array(0)
const counts = (values: number[]): Slot => [BigInt64Array.from(values, BigInt), [values.length]]
