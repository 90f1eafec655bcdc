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
  return g.buildWithNothing(`attend${shifted ? '_shifted' : ''}${masked ? '_masked' : ''}`)
}

/**
 * A chunk's own keys. The mask throws away the half of their scores above the diagonal, so the rows are cut into strips,
 * of which each sees no key beyond its last row's own: of that half, a quarter is left. `k0_2` and `v0_2` are those of
 * head 0 for strip 2, from the chunk's first key on.
 */
export function triangleGraph(shape: ModelShape, g: GraphBuilder): Uint8Array {
  const { heads, kvHeads, headDim } = shape
  const group = heads / kvHeads
  const masks = STRIPS.map((i) => g.input(`mask_${i}`, [`S${i}`, `T${i}`]))
  for (let head = 0; head < kvHeads; head++) {
    const q = g.input(`q${head}`, [group, 'S', headDim])
    const rows = g.ops(STRIPS.length, 'Split', [q], { axis: 1, num_outputs: STRIPS.length })
    const folded = STRIPS.map((i) => {
      const k = g.input(`k${head}_${i}`, [`T${i}`, headDim])
      const scores = scoresOf(g, shape, rows[i]!, k, masks[i])
      return foldWeights(g, scores, g.input(`v${head}_${i}`, [`T${i}`, headDim]))
    })
    for (const [name, width] of [
      ['o', headDim],
      ['l', 1],
    ] as const) {
      const all = g.op(
        'Concat',
        folded.map((strip) => strip[name]),
        { axis: 1 },
      )
      const old = g.input(`${name}${head}`, [group, 'S', width])
      g.output(`${name}${head}_out`, g.op('Add', [old, all]), [group, 'S', width])
    }
  }
  return g.buildWithNothing('attend_triangle')
}

/** More of them save less and less, and each is a call of every kernel. */
const STRIPS = [0, 1, 2, 3] as const

/** Rows `[first, first + rows)` of a chunk, and how many keys they see; `suffix` is of the names of what is its own. */
export interface Strip {
  readonly suffix: string
  readonly first: number
  readonly rows: number
  readonly keys: number
}

/** A chunk's own tokens, as ONNX's `Split` cuts them: the last strip may be shorter. */
export function stripsOf(tokens: number): Strip[] {
  const most = Math.ceil(tokens / STRIPS.length)
  return STRIPS.map((i) => {
    const [first, keys] = [i * most, Math.min(tokens, (i + 1) * most)]
    return { suffix: `_${i}`, first, rows: keys - first, keys }
  })
}

interface AttendKind {
  /** The state has a maximum for each row, which is taken off its scores. */
  readonly shifted: boolean
  readonly masked: boolean
}

function attendHead(g: GraphBuilder, shape: ModelShape, head: number, mask?: Value) {
  const { heads, kvHeads, headDim } = shape
  const group = heads / kvHeads
  const q = g.input(`q${head}`, [group, 'S', headDim])
  const k = g.input(`k${head}`, ['T', headDim])
  return {
    scores: scoresOf(g, shape, q, k, mask),
    v: g.input(`v${head}`, ['T', headDim]),
    old: (name: string, width = 1) => g.input(`${name}${head}`, [group, 'S', width]),
    put: (name: string, value: Value, width = 1) => g.output(`${name}${head}_out`, value, [group, 'S', width]),
    headDim,
  }
}

type HeadIo = ReturnType<typeof attendHead>

function scoresOf(g: GraphBuilder, { scoreScale, scoreCap }: ModelShape, q: Value, k: Value, mask?: Value): Value {
  const all = capped(g, matmulTransposed(g, q, k, scoreScale), scoreCap)
  return mask === undefined ? all : g.op('Add', [all, mask])
}

/** o += exp(scores) V and l += the row's sum of exp(scores). */
function foldUnshifted(g: GraphBuilder, { scores, v, old, put, headDim }: HeadIo): void {
  const { o, l } = foldWeights(g, scores, v)
  put('l', g.op('Add', [old('l'), l]))
  put('o', g.op('Add', [old('o', headDim), o]), headDim)
}

function foldWeights(g: GraphBuilder, scores: Value, v: Value) {
  const weights = g.op('Exp', [scores])
  const l = g.op('ReduceSum', [weights, g.ints(-1)], { keepdims: 1 })
  return { l, o: g.op('MatMul', [weights, v]) }
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
