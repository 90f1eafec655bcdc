import type { Activation, ModelShape } from '../../../shared/model-shape.ts'
import type { GraphBuilder, Value } from './graph-builder.ts'

/** Pieces that several graphs are made of. */

const rmsNorm = (g: GraphBuilder, x: Value, gain: Value, epsilon: number): Value =>
  g.op('SimplifiedLayerNormalization', [x, gain], { axis: -1, epsilon: { float: epsilon }, stash_type: 1 })

/** cap * tanh(x / cap), or x where there is no cap. */
export function capped(g: GraphBuilder, x: Value, cap: number | undefined): Value {
  if (cap === undefined) return x
  return g.op('Mul', [g.op('Tanh', [g.op('Mul', [x, g.float(1 / cap)])]), g.float(cap)])
}

export const scaled = (g: GraphBuilder, x: Value, by: number): Value => (by === 1 ? x : g.op('Mul', [x, g.float(by)]))

export function activated(g: GraphBuilder, x: Value, activation: Activation): Value {
  switch (activation) {
    case 'silu':
      return g.op('QuickGelu@com.microsoft', [x], { alpha: { float: 1 } }) // x sigmoid(x)
    case 'gelu':
      return g.op('Gelu', [x], { approximate: { text: 'none' } })
    case 'gelu_tanh':
      return g.op('Gelu', [x], { approximate: { text: 'tanh' } })
  }
}

/** Adds the bias of that name where the model has it. */
export const biased = (g: GraphBuilder, x: Value, has: boolean, name: string, width: number): Value =>
  has ? g.op('Add', [x, g.input(`${name}_bias`, [width])]) : x

/** The norm of that name, over rows of so many numbers. */
export const normed = (g: GraphBuilder, x: Value, name: string, width: number, { normEpsilon }: ModelShape): Value =>
  rmsNorm(g, x, g.input(`${name}_norm`, [width]), normEpsilon)
