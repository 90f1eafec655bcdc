import type { ModelShape } from '../../../shared/model-shape.ts'
import type { Dim, GraphBuilder } from '../onnx/graph-builder.ts'
import { capped, normed, scaled } from '../onnx/parts.ts'
import { attendGraph } from './attend-graph.ts'
import { cast, type DeviceModel } from './device-model.ts'
import { expertGraph, joinGraph, mixGraph } from './mix-graphs.ts'
import { projectGraph } from './project-graph.ts'

type DeviceGraph = (model: DeviceModel, g: GraphBuilder) => Uint8Array

/** The end of whatever axis. */
const TO_THE_END = 2 ** 31

/** Whose outputs stay on the device; S is the number of tokens of a chunk, T of keys. */
export const DEVICE_GRAPHS = {
  vector: (_, g) => identityGraph(g, ['N']),
  table: (_, g) => identityGraph(g, ['N', 'D']),
  state: ({ shape: { kvHeads } }, g) => identityGraph(g, [kvHeads, 'R', 'D']),
  hidden: ({ shape: { hidden } }, g) => identityGraph(g, [1, 'N', hidden]),
  matrix: matrixGraph,
  mask: maskGraph,
  project: projectGraph,
  attendFirst: (model, g) => attendGraph(model, g, { first: true, masked: false }),
  attendFirstMasked: (model, g) => attendGraph(model, g, { first: true, masked: true }),
  attend: (model, g) => attendGraph(model, g, { first: false, masked: false }),
  attendMasked: (model, g) => attendGraph(model, g, { first: false, masked: true }),
  mix: mixGraph,
  lastRow: lastRowGraph,
  store: storeGraph,
  slice: sliceGraph,
  concat: concatGraph,
} as const satisfies Record<string, DeviceGraph>

/** Those of a model with experts. */
export const EXPERT_GRAPHS = { join: joinGraph, expert: expertGraph } as const satisfies Record<string, DeviceGraph>

/** Whose outputs the host reads. */
export const LEAVING_GRAPHS = {
  vectorToHost: (_, g) => identityGraph(g, ['N']),
  tableToHost: (_, g) => identityGraph(g, ['N', 'D']),
  load: loadGraph,
  logits: logitsGraph,
} as const satisfies Record<string, DeviceGraph>

export type DeviceGraphKind = keyof typeof DEVICE_GRAPHS | keyof typeof EXPERT_GRAPHS | keyof typeof LEAVING_GRAPHS

function identityGraph(g: GraphBuilder, dims: readonly Dim[]): Uint8Array {
  g.output('y', g.op('Identity', [g.input('x', dims)]), dims)
  return g.build('identity')
}

/** A checkpoint's matrix [out, in] as the product wants it. */
function matrixGraph({ element }: DeviceModel, g: GraphBuilder): Uint8Array {
  const turned = g.op('Transpose', [g.input('x', ['O', 'I'])], { perm: { ints: [1, 0] } })
  g.output('y', cast(g, turned, 'float32', element), ['I', 'O'], element)
  return g.build('matrix')
}

function maskGraph({ element }: DeviceModel, g: GraphBuilder): Uint8Array {
  const x = g.op('Identity', [g.input('x', ['S', 'T'])])
  g.output('y', cast(g, x, 'float32', element), ['S', 'T'], element)
  return g.build('mask')
}

function lastRowGraph({ shape: { hidden } }: DeviceModel, g: GraphBuilder): Uint8Array {
  const x = g.input('x', [1, 'S', hidden])
  g.output('y', g.op('Slice', [x, g.ints(-1), g.ints(TO_THE_END), g.ints(1)]), [1, 1, hidden])
  return g.build('last_row')
}

/** One piece of the head, of the last row. */
function logitsGraph({ shape, element }: DeviceModel, g: GraphBuilder): Uint8Array {
  const { hidden, logitScale, logitCap } = shape
  const x = g.input('x', [1, 'S', hidden])
  const last = g.op('Slice', [x, g.ints(-1), g.ints(TO_THE_END), g.ints(1)])
  const rows = cast(g, normed(g, last, 'final', hidden, shape), 'float32', element)
  const product = g.op('MatMul', [rows, g.input('head_weight', [hidden, 'V'], element)])
  const logits = capped(g, scaled(g, cast(g, product, element, 'float32'), logitScale), logitCap)
  g.output('logits', logits, [1, 1, 'V'])
  return g.build('logits')
}

/** K and V of the host, `[kvHeads, T, headDim]` each, as they lie on the device. */
function storeGraph({ shape: { kvHeads, headDim }, element }: DeviceModel, g: GraphBuilder): Uint8Array {
  const k = g.op('Transpose', [g.input('k_host', [kvHeads, 'T', headDim])], { perm: { ints: [0, 2, 1] } })
  g.output('k', cast(g, k, 'float32', element), [kvHeads, headDim, 'T'], element)
  const v = g.op('Identity', [g.input('v_host', [kvHeads, 'T', headDim])])
  g.output('v', cast(g, v, 'float32', element), [kvHeads, 'T', headDim], element)
  return g.build('store')
}

/** The inverse of `store`, of the positions `[from, to)`. */
function loadGraph({ shape, element }: DeviceModel, g: GraphBuilder): Uint8Array {
  const { k, v } = sliced(shape, element, g)
  const turned = g.op('Transpose', [k], { perm: { ints: [0, 2, 1] } })
  const dims = [shape.kvHeads, 'U', shape.headDim]
  g.output('k_host', cast(g, turned, element, 'float32'), dims)
  g.output('v_host', cast(g, v, element, 'float32'), dims)
  return g.build('load')
}

function sliceGraph({ shape, element }: DeviceModel, g: GraphBuilder): Uint8Array {
  const { k, v } = sliced(shape, element, g)
  g.output('k', k, [shape.kvHeads, shape.headDim, 'U'], element)
  g.output('v', v, [shape.kvHeads, 'U', shape.headDim], element)
  return g.build('slice')
}

function sliced({ kvHeads, headDim }: ModelShape, element: DeviceModel['element'], g: GraphBuilder) {
  const bounds = [g.input('from', [1], 'int64'), g.input('to', [1], 'int64')]
  const part = (name: string, dims: readonly Dim[], axis: number) =>
    g.op('Slice', [g.input(name, dims, element), ...bounds, g.ints(axis)])
  return { k: part('k_all', [kvHeads, headDim, 'T'], 2), v: part('v_all', [kvHeads, 'T', headDim], 1) }
}

/** Two neighbours as one. */
function concatGraph({ shape: { kvHeads, headDim }, element }: DeviceModel, g: GraphBuilder): Uint8Array {
  const k = (['k_first', 'k_second'] as const).map((name) => g.input(name, [kvHeads, headDim, `T_${name}`], element))
  const v = (['v_first', 'v_second'] as const).map((name) => g.input(name, [kvHeads, `T_${name}`, headDim], element))
  g.output('k', g.op('Concat', k, { axis: 2 }), [kvHeads, headDim, 'T'], element)
  g.output('v', g.op('Concat', v, { axis: 1 }), [kvHeads, 'T', headDim], element)
  return g.build('concat')
}
