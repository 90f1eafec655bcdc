import type { ModelShape } from '../../../shared/model-shape.ts'
import type { GraphBuilder, Value } from './graph-builder.ts'
import type { Linear } from './linear/linear.ts'
import { mixed, normalised } from './mix-graph.ts'
import { attendStep } from './one-row.ts'
import { outputProjected, type Projected, projected } from './project-graph.ts'
import type { Slot, Slots } from './session-set.ts'

/**
 * One token through a whole layer: `project`, attention to itself and to the keys before it, and `mix`. In three calls, with
 * the tensors between them, a token of an answer would take a tenth longer. Its K and V leave as `kv`, in one piece, since
 * each tensor that a call reads or writes costs it three microseconds.
 */
export function stepGraph(shape: ModelShape, linear: Linear, g: GraphBuilder): Uint8Array {
  const { hidden, kvHeads, headDim } = shape
  const x = g.input('x', [1, 'S', hidden])
  const own = projected(shape, linear, g, x)
  g.output('kv', joined(g, own), [1, 1, 2 * kvHeads * headDim])
  g.output('y', mixed(shape, linear, g, { attention: attendStep(shape, g, own), x }), [1, 'S', hidden])
  return g.build('step')
}

/** What is computed of a layer: a half of it for many tokens, or all of it for one. */
export type LayerPart = 'project' | 'mix' | 'step'

/** All three as one graph, so that weights which its session packs are packed, and kept, once. */
export function layerGraph(shape: ModelShape, linear: Linear, g: GraphBuilder): Uint8Array {
  const { hidden, heads, kvHeads, headDim } = shape
  const flag = (name: string): Value => g.op('Cast', [g.input(name, [], 'uint8')], { to: { type: 'bool' } })
  const [projects, mixes] = [flag('projects'), flag('mixes')]
  const x = g.input('x', [1, 'S', hidden])
  const [q, k, v] = g.choose(
    projects,
    (then) => {
      const of = projected(shape, linear, then, x)
      return [of.q, of.k, of.v]
    },
    (otherwise) => [heads, kvHeads, kvHeads].map((count) => nothing(otherwise, count * headDim)),
  )
  const own: Projected = { q: q!, k: k!, v: v! }
  outputProjected(shape, g, own)
  const [attention, kv] = g.choose(
    g.op('And', [projects, mixes]),
    (then) => [attendStep(shape, then, own), joined(then, own)],
    (otherwise) => [normalised(shape, otherwise), nothing(otherwise, 2 * kvHeads * headDim)],
  )
  g.output('kv', kv!, [1, 1, 2 * kvHeads * headDim])
  const [y] = g.choose(
    mixes,
    (then) => [mixed(shape, linear, then, { attention: attention!, x })],
    (otherwise) => [nothing(otherwise, hidden)],
  )
  g.output('y', y!, [1, 'S', hidden])
  return g.buildWithNothing('layer')
}

const joined = (g: GraphBuilder, { k, v }: Projected): Value => g.op('Concat', [k, v], { axis: -1 })

/** What stands for a value that nobody asks for, [1, 0, width]. */
const nothing = (g: GraphBuilder, width: number): Value => g.op('Identity', [g.floats([1, 0, width])])

/** For `layerGraph`: what chooses each part, and empty tensors for what the others read. */
export function partSlots({
  hidden,
  heads,
  kvHeads,
  headDim,
  rotaryDim,
}: ModelShape): Readonly<Record<LayerPart, Slots>> {
  const unread: Record<string, Slot> = {
    x: [EMPTY, [1, 0, hidden]],
    cos: [EMPTY, [0, rotaryDim / 2]],
    sin: [EMPTY, [0, rotaryDim / 2]],
    o: [EMPTY, [heads, 0, headDim]],
    l: [EMPTY, [heads, 0, 1]],
  }
  for (let head = 0; head < kvHeads; head++)
    for (const name of ['k', 'v']) unread[`${name}${head}`] = [EMPTY, [1, 0, headDim]]
  const flags = (projects: number, mixes: number): Slots => ({
    projects: [Uint8Array.of(projects), []],
    mixes: [Uint8Array.of(mixes), []],
  })
  return {
    project: { ...unread, ...flags(1, 0) },
    mix: { ...unread, ...flags(0, 1) },
    step: { ...unread, ...flags(1, 1) },
  }
}

const EMPTY = new Float32Array(0)
