import { HeadraceError } from '../../../shared/errors.ts'
import type { ModelShape } from '../../../shared/model-shape.ts'
import { halvedIfExact, type Rows } from '../../model/rows.ts'
import { type LayerWeights, loadWeights, type Mlp } from '../../model/weights.ts'
import { GraphBuilder } from './graph-builder.ts'
import { GRAPHS, type WeightedKind } from './graphs.ts'
import type { LinearFormat, RowFormat } from './linear/linear.ts'
import { linearOf, PackedSessions, type Place, type Stride } from './packed-sessions.ts'
import { SessionSet, type Slots } from './session-set.ts'
import { headSlots, layerSlots } from './weight-slots.ts'

/** The graphs that need weights, of a whole model. */
export interface WeightedGraphs {
  /** How many tokens a call should have at most. */
  readonly chunkTokens: number
  readonly embedding_vocab_dim: Rows
  /** Rows of each piece of the head, from the top. */
  readonly headRows: readonly number[]
  /** One call for so many tokens. */
  run(kind: WeightedKind, at: Place, tokens: number, inputs: Slots, outputs: Slots): Promise<void>
  /** Layers that one token goes through in one call of `step`, in their order. Through the others it goes in parts. */
  readonly strides: readonly Stride[]
  /** See `stepGraph`. */
  step(stride: Stride, inputs: Slots, outputs: Slots): Promise<void>
  /** Gives back what was kept for the next call. None may be running. */
  trim(): void
  release(): Promise<void>
}

type Sized = { readonly out: number }

/** A whole KV block: larger products gain nothing, and each call of a graph costs a tenth of a millisecond. */
const CHUNK_TOKENS = 512
/**
 * Every session's arena keeps what its largest call took: with 384 tokens in 60 sessions of the smol135 shape 400 MB,
 * with 192 half of it, at hardly less speed.
 */
const ARENAS_CHUNK_TOKENS = 192

/**
 * One session to a kind of graph, weights passed in with each call: a few kilobytes beside the weights themselves, and
 * loading is reading. For work on many tokens at once, where packing a weight for the kernel is paid back in the call.
 */
export async function streamedWeights<M extends Sized>(
  folder: string,
  shape: ModelShape,
  linear: LinearFormat<M>,
  { threads, head = true }: { threads: number; head?: boolean },
): Promise<WeightedGraphs> {
  // the head, where there is one, may be the embedding itself
  const kept = head ? linear : { ...linear, keepHead: undefined, keepRows: halvedRows(linear) }
  const weights = await loadWeights(folder, shape, { ...kept, keepLayer: (layer) => layer })
  const sessions = new SessionSet(threads)
  for (const kind of kindsOf(shape))
    await sessions.add(kind, GRAPHS[kind](shape, linearOf(linear, kind), new GraphBuilder(), 'V'))
  const slotsOf = (kind: WeightedKind, { at, expert }: Place): Slots =>
    kind === 'logits'
      ? headSlots(linear, weights.finalNorm_dim, weights.head[at]!)
      : layerSlots(linear, kind, weights.layers[at]!, expert)
  return {
    chunkTokens: CHUNK_TOKENS,
    embedding_vocab_dim: weights.embedding_vocab_dim,
    headRows: weights.head.map(({ out }) => out),
    run: (kind, at, _tokens, inputs, outputs) => sessions.run(kind, { ...inputs, ...slotsOf(kind, at) }, outputs),
    strides: [],
    step: () => Promise.reject(new HeadraceError('internal', 'streamed weights have no strides')),
    trim: () => sessions.renew(),
    release: () => sessions.release(),
  }
}

/**
 * A session to each layer, its weights part of the model and packed for the kernels when it is loaded. A step of decoding
 * reads every weight once for a single token: packing them anew would cost more than the product.
 */
export async function packedWeights<M extends Sized>(
  folder: string,
  shape: ModelShape,
  linear: LinearFormat<M>,
  { threads, arena }: { threads: number; arena: boolean },
): Promise<WeightedGraphs> {
  const sessions = new PackedSessions(shape, linear, { threads, arena, parts: true })
  const { embedding_vocab_dim, head, finalNorm_dim } = await loadWeights(folder, shape, {
    ...linear,
    keepLayer: (layer) => sessions.addLayer(layer),
    keepRows: halvedRows(linear), // the head is packed apart from it anyway
  })
  await sessions.addHead(finalNorm_dim, head)
  return {
    chunkTokens: arena ? ARENAS_CHUNK_TOKENS : CHUNK_TOKENS,
    embedding_vocab_dim,
    headRows: head.map(({ out }) => out),
    run: (kind, at, _tokens, inputs, outputs) => sessions.run(kind, at, inputs, outputs),
    strides: sessions.strides,
    step: (stride, inputs, outputs) => sessions.step(stride, inputs, outputs),
    trim: () => undefined, // weights would have to be packed again
    release: () => sessions.release(),
  }
}

/** The embedding in half of float32's memory, if that loses nothing. */
const halvedRows =
  ({ keepRows }: Pick<LinearFormat<unknown>, 'keepRows'>): LinearFormat<unknown>['keepRows'] =>
  (values, dim) => {
    const rows = keepRows(values, dim)
    return rows instanceof Float32Array ? halvedIfExact(rows) : rows
  }

/**
 * The weights twice: `one` packed, for single tokens and for the head, and `many` streamed, for a decode node's part of a
 * prompt. For formats whose best products of one row and of many have nothing in common.
 */
export async function packedAndStreamedWeights<P extends Sized, M extends Sized>(
  folder: string,
  shape: ModelShape,
  { one, many }: { one: RowFormat<P, M>; many: LinearFormat<M> },
  threads: number,
): Promise<WeightedGraphs> {
  const packed = new PackedSessions(shape, one, { threads, arena: false, parts: false })
  const streamed = new SessionSet(threads)
  for (const kind of kindsOf(shape)) await streamed.add(kind, GRAPHS[kind](shape, many, new GraphBuilder(), 'V'))
  const { embedding_vocab_dim, layers, head, finalNorm_dim } = await loadWeights(folder, shape, {
    keep: (matrix) => {
      const kept = many.keep(matrix)
      return { one: one.keep(matrix, kept), many: kept }
    },
    keepLayer: async (layer) => {
      await packed.addLayer(eachMatrix(layer, (matrix) => matrix.one))
      return eachMatrix(layer, (matrix) => matrix.many)
    },
    keepRows: one.keepRows,
    keepHead: one.keepHead,
  })
  await packed.addHead(finalNorm_dim, head)
  return {
    chunkTokens: CHUNK_TOKENS,
    embedding_vocab_dim,
    headRows: head.map(({ out }) => out),
    run: (kind, at, tokens, inputs, outputs) =>
      kind === 'logits' || (tokens === 1 && packed.has(kind, at))
        ? packed.run(kind, at, inputs, outputs)
        : streamed.run(kind, { ...inputs, ...layerSlots(many, kind, layers[at.at]!, at.expert) }, outputs),
    strides: packed.strides,
    step: (stride, inputs, outputs) => packed.step(stride, inputs, outputs),
    trim: () => streamed.renew(),
    release: async () => {
      await packed.release()
      await streamed.release()
    },
  }
}

/** What the layers of a model are computed with. */
function kindsOf({ layerShapes }: ModelShape): WeightedKind[] {
  const kinds: WeightedKind[] = ['project', 'logits']
  if (layerShapes.some(({ experts }) => !experts)) kinds.push('mix')
  if (layerShapes.some(({ experts }) => experts)) kinds.push('join', 'expert')
  return kinds
}

function eachMatrix<M, N>({ vectors, attention, mlp, experts }: LayerWeights<M>, as: (m: M) => N): LayerWeights<N> {
  const { q, k, v, o } = attention
  const each = ({ gate, up, down }: Mlp<M>): Mlp<N> => ({ gate: as(gate), up: as(up), down: as(down) })
  return {
    vectors,
    attention: { q: as(q), k: as(k), v: as(v), o: as(o) },
    ...(mlp && { mlp: each(mlp) }),
    ...(experts && { experts: { ...experts, mlps: experts.mlps.map(each) } }),
  }
}
