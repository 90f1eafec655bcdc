import type { ModelShape } from '../../../shared/model-shape.ts'
import { halvedIfExact, type Rows } from '../../model/rows.ts'
import { type LayerWeights, loadWeights } from '../../model/weights.ts'
import type { Floats } from '../host-tensors.ts'
import { GraphBuilder } from './graph-builder.ts'
import { GRAPHS, type WeightedKind } from './graphs.ts'
import type { LinearFormat } from './linear/linear.ts'
import { SessionSet, type Slots } from './session-set.ts'

/** The graphs that need weights, of a whole model. */
export interface WeightedGraphs {
  readonly embedding_vocab_dim: Rows
  /** Rows of each piece of the head, from the top. */
  readonly headRows: readonly number[]
  /** One call for so many tokens. `at` is the layer, or the piece of the head. */
  run(kind: WeightedKind, at: number, tokens: number, inputs: Slots, outputs: Slots): Promise<void>
  release(): Promise<void>
}

type Sized = { readonly out: number }

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
  const keepHead = head ? linear.keepHead : undefined
  const weights = await loadWeights(folder, shape, { ...linear, keepHead, keepLayer: (layer) => layer })
  const sessions = new SessionSet(threads)
  for (const kind of ['project', 'mix', 'logits'] as const)
    await sessions.add(kind, GRAPHS[kind](shape, linearOf(linear, kind), new GraphBuilder(), 'V'))
  const slotsOf = (kind: WeightedKind, at: number): Slots =>
    kind === 'logits'
      ? headSlots(linear, weights.finalNorm_dim, weights.head[at]!)
      : layerSlots(linear, kind, weights.layers[at]!)
  return {
    embedding_vocab_dim: weights.embedding_vocab_dim,
    headRows: weights.head.map(({ out }) => out),
    run: (kind, at, _tokens, inputs, outputs) => sessions.run(kind, { ...inputs, ...slotsOf(kind, at) }, outputs),
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
  threads: number,
): Promise<WeightedGraphs> {
  const sessions = new PackedSessions(shape, linear, threads)
  const { embedding_vocab_dim, head, finalNorm_dim } = await loadWeights(folder, shape, {
    ...linear,
    keepLayer: (layer) => sessions.addLayer(layer),
    // the head is packed apart from it anyway
    keepRows: (values, dim) => {
      const rows = linear.keepRows(values, dim)
      return rows instanceof Float32Array ? halvedIfExact(rows) : rows
    },
  })
  await sessions.addHead(finalNorm_dim, head)
  return {
    embedding_vocab_dim,
    headRows: head.map(({ out }) => out),
    run: (kind, at, _tokens, inputs, outputs) => sessions.run(kind, at, inputs, outputs),
    release: () => sessions.release(),
  }
}

/**
 * The weights twice: `one` packed, for single tokens and for the head, and `many` streamed, for a decode node's part of a
 * prompt. For formats whose best products of one row and of many have nothing in common.
 */
export async function packedAndStreamedWeights<P extends Sized, M extends Sized>(
  folder: string,
  shape: ModelShape,
  { one, many }: { one: LinearFormat<P>; many: LinearFormat<M> },
  threads: number,
): Promise<WeightedGraphs> {
  const packed = new PackedSessions(shape, one, threads)
  const streamed = new SessionSet(threads)
  for (const kind of ['project', 'mix'] as const)
    await streamed.add(kind, GRAPHS[kind](shape, many, new GraphBuilder(), 'V'))
  const { embedding_vocab_dim, layers, head, finalNorm_dim } = await loadWeights(folder, shape, {
    keep: (matrix) => ({ one: one.keep(matrix), many: many.keep(matrix) }),
    keepLayer: async (layer) => {
      await packed.addLayer(eachMatrix(layer, (matrix) => matrix.one))
      return eachMatrix(layer, (matrix) => matrix.many)
    },
    keepRows: one.keepRows,
    keepHead: one.keepHead,
  })
  await packed.addHead(finalNorm_dim, head)
  return {
    embedding_vocab_dim,
    headRows: head.map(({ out }) => out),
    run: (kind, at, tokens, inputs, outputs) =>
      kind === 'logits' || tokens === 1
        ? packed.run(kind, at, inputs, outputs)
        : streamed.run(kind, { ...inputs, ...layerSlots(many, kind, layers[at]!) }, outputs),
    release: async () => {
      await packed.release()
      await streamed.release()
    },
  }
}

/** A session to each layer and to each piece of the head. */
class PackedSessions<M extends Sized> {
  readonly #shape: ModelShape
  readonly #linear: LinearFormat<M>
  readonly #sessions: SessionSet
  #layers = 0

  constructor(shape: ModelShape, linear: LinearFormat<M>, threads: number) {
    this.#shape = shape
    this.#linear = linear
    // 60 of them would each keep the largest chunk they have seen
    this.#sessions = new SessionSet(threads, { arena: false })
  }

  async addLayer(layer: LayerWeights<M>): Promise<void> {
    for (const kind of ['project', 'mix'] as const)
      await this.#add(kind, this.#layers, layerSlots(this.#linear, kind, layer), 0)
    this.#layers++
  }

  async addHead(gain: Floats, pieces: readonly M[]): Promise<void> {
    for (const [at, piece] of pieces.entries())
      await this.#add('logits', at, headSlots(this.#linear, gain, piece), piece.out)
  }

  run(kind: WeightedKind, at: number, inputs: Slots, outputs: Slots): Promise<void> {
    return this.#sessions.run(`${kind} ${at}`, inputs, outputs)
  }

  release(): Promise<void> {
    return this.#sessions.release()
  }

  #add(kind: WeightedKind, at: number, slots: Slots, headRows: number): Promise<void> {
    const graph = GRAPHS[kind](this.#shape, linearOf(this.#linear, kind), new GraphBuilder(slots), headRows)
    return this.#sessions.add(`${kind} ${at}`, graph)
  }
}

/** How the graphs of this kind multiply. */
const linearOf = <M>({ multiplicand, head }: LinearFormat<M>, kind: WeightedKind) => ({
  multiplicand: kind === 'logits' ? (head ?? multiplicand) : multiplicand,
})

const eachMatrix = <M, N>(
  { attentionNorm_dim, mlpNorm_dim, q, k, v, o, gate, up, down }: LayerWeights<M>,
  as: (matrix: M) => N,
): LayerWeights<N> => ({
  attentionNorm_dim,
  mlpNorm_dim,
  q: as(q),
  k: as(k),
  v: as(v),
  o: as(o),
  gate: as(gate),
  up: as(up),
  down: as(down),
})

function layerSlots<M>(linear: LinearFormat<M>, kind: 'project' | 'mix', layer: LayerWeights<M>): Slots {
  const gain = kind === 'project' ? layer.attentionNorm_dim : layer.mlpNorm_dim
  const names = kind === 'project' ? (['q', 'k', 'v'] as const) : (['o', 'gate', 'up', 'down'] as const)
  const matrices = names.map((name) => linear.slots(`${name}_weight`, layer[name]))
  return Object.assign({ gain: [gain, [gain.length]] }, ...matrices)
}

const headSlots = <M>(linear: LinearFormat<M>, gain: Floats, piece: M): Slots => ({
  gain: [gain, [gain.length]],
  ...linear.slots('head_weight', piece),
})
