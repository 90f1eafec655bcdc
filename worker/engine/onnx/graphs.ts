import type { ModelShape } from '../../../shared/model-shape.ts'
import { attendGraph, triangleGraph } from './attend-graph.ts'
import type { Dim, GraphBuilder } from './graph-builder.ts'
import type { Linear } from './linear/linear.ts'
import { expertGraph, joinGraph, mixGraph } from './mix-graph.ts'
import { attendOneGraph } from './one-row.ts'
import { capped, normed, scaled } from './parts.ts'
import { projectGraph } from './project-graph.ts'
import { WIRE_GRAPHS } from './wire-graphs.ts'

/** `join` and `expert` stand for `mix` where a layer has experts. */
export type WeightedKind = 'project' | 'mix' | 'join' | 'expert' | 'logits'
/** `headRows` is the number of rows of the head, or of a piece of it. */
type WeightedGraph = (shape: ModelShape, linear: Linear, g: GraphBuilder, headRows: Dim) => Uint8Array

/** The graphs that have weights. S is the number of tokens of a chunk. */
export const GRAPHS: Readonly<Record<WeightedKind, WeightedGraph>> = {
  project: projectGraph,
  mix: mixGraph,
  join: joinGraph,
  expert: expertGraph,
  logits: logitsGraph,
}

/** Those that have none; T is the number of keys. */
export const PLAIN_GRAPHS = {
  attend: (shape: ModelShape, g: GraphBuilder) => attendGraph(shape, g, { shifted: false, masked: false }),
  attendMasked: (shape: ModelShape, g: GraphBuilder) => attendGraph(shape, g, { shifted: false, masked: true }),
  attendShifted: (shape: ModelShape, g: GraphBuilder) => attendGraph(shape, g, { shifted: true, masked: false }),
  attendShiftedMasked: (shape: ModelShape, g: GraphBuilder) => attendGraph(shape, g, { shifted: true, masked: true }),
  attendTriangle: triangleGraph,
  attendOne: attendOneGraph,
  ...WIRE_GRAPHS,
} as const
export type PlainKind = keyof typeof PLAIN_GRAPHS

function logitsGraph(shape: ModelShape, { multiplicand }: Linear, g: GraphBuilder, headRows: Dim): Uint8Array {
  const { hidden, logitScale, logitCap } = shape
  const x = g.input('x', [1, 1, hidden])
  const times = multiplicand(g, normed(g, x, 'final', hidden, shape), hidden, true)
  g.output('logits', capped(g, scaled(g, times('head_weight', headRows), logitScale), logitCap), [1, 1, headRows])
  return g.buildWithNothing('logits')
}
