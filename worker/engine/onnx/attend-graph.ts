import type { ModelShape } from '../../../shared/model-shape.ts'
import type { GraphBuilder, Value } from './graph-builder.ts'
import { matmulTransposed } from './linear/f32.ts'
import { capped } from './parts.ts'

/**
 * One range of keys, folded into the carried state of softmax (arXiv 1805.02867) as blockwise attention does (arXiv
 * 2305.19370). Every KV head is on its own, as its keys and values are a view of their own and its scores fit the cache.
 * The G query heads of its group are rows of the same product, so keys and values are never repeated.
 */
export function attendGraph(shape: ModelShape, g: GraphBuilder, { shifted, masked }: AttendKind): Uint8Array {
  const mask = masked ? g.input('mask', ['S', 'T']) : undefined
  for (let head = 0; head < shape.kvHeads; head++) {
    const io = attendHead(g, shape, head, mask)
    if (shifted) foldShifted(g, io)
    else foldUnshifted(g, io)
  }
  return g.build(`attend${shifted ? '_shifted' : ''}${masked ? '_masked' : ''}`)
}

interface AttendKind {
  /** The state has a maximum for each row, which is taken off its scores. */
  readonly shifted: boolean
  readonly masked: boolean
}

function attendHead(g: GraphBuilder, shape: ModelShape, head: number, mask?: Value) {
  const { heads, kvHeads, headDim, scoreScale } = shape
  const group = heads / kvHeads
  const q = g.input(`q${head}`, [group, 'S', headDim])
  const k = g.input(`k${head}`, ['T', headDim])
  const all = capped(g, matmulTransposed(g, q, k, scoreScale), shape.scoreCap)
  return {
    scores: mask === undefined ? all : g.op('Add', [all, mask]),
    v: g.input(`v${head}`, ['T', headDim]),
    old: (name: string, width = 1) => g.input(`${name}${head}`, [group, 'S', width]),
    put: (name: string, value: Value, width = 1) => g.output(`${name}${head}_out`, value, [group, 'S', width]),
    headDim,
  }
}

type HeadIo = ReturnType<typeof attendHead>

/** o += exp(scores) V and l += the row's sum of exp(scores). */
function foldUnshifted(g: GraphBuilder, { scores, v, old, put, headDim }: HeadIo): void {
  const weights = g.op('Exp', [scores])
  put('l', g.op('Add', [old('l'), g.op('ReduceSum', [weights, g.ints(-1)], { keepdims: 1 })]))
  put('o', g.op('Add', [old('o', headDim), g.op('MatMul', [weights, v])]), headDim)
}

/** The same of scores less the row's maximum. `m_out` must not be the buffer of `m`: it is written before `m` is last read. */
function foldShifted(g: GraphBuilder, { scores, v, old, put, headDim }: HeadIo): void {
  const m = old('m')
  const last = g.ints(-1)
  const mOut = g.op('Max', [m, g.op('ReduceMax', [scores, last], { keepdims: 1 })])
  const weights = g.op('Exp', [g.op('Sub', [scores, mOut])])
  const before = g.op('Exp', [g.op('Sub', [m, mOut])])
  const sum = g.op('ReduceSum', [weights, last], { keepdims: 1 })
  put('l', g.op('Add', [g.op('Mul', [old('l'), before]), sum]))
  put('o', g.op('Add', [g.op('Mul', [old('o', headDim), before]), g.op('MatMul', [weights, v])]), headDim)
  put('m', mOut)
}
