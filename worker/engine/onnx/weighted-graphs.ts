import type { ModelShape } from '../../../shared/model-shape.ts'
import { halvedIfExact, type Rows } from '../../model/rows.ts'
import { type LayerWeights, loadWeights, type Mlp } from '../../model/weights.ts'
import type { Floats } from '../host-tensors.ts'
import { GraphBuilder } from './graph-builder.ts'
import { GRAPHS, type WeightedKind } from './graphs.ts'
import type { LinearFormat } from './linear/linear.ts'
import { SessionSet, type Slot, type Slots } from './session-set.ts'

/** The graphs that need weights, of a whole model. */
export interface WeightedGraphs {
  /** How many tokens a call should have at most. */
  readonly chunkTokens: number
  readonly embedding_vocab_dim: Rows
  /** Rows of each piece of the head, from the top. */
  readonly headRows: readonly number[]
  /** One call for so many tokens. */
  run(kind: WeightedKind, at: Place, tokens: number, inputs: Slots, outputs: Slots): Promise<void>
  release(): Promise<void>
}

/** A layer, or the piece of the head; and which of the layer's experts. */
interface Place {
  readonly at: number
  readonly expert?: number
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
  const keepHead = head ? linear.keepHead : undefined
  const weights = await loadWeights(folder, shape, { ...linear, keepHead, keepLayer: (layer) => layer })
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
  const sessions = new PackedSessions(shape, linear, threads, arena)
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
    chunkTokens: arena ? ARENAS_CHUNK_TOKENS : CHUNK_TOKENS,
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
  const packed = new PackedSessions(shape, one, threads, false)
  const streamed = new SessionSet(threads)
  for (const kind of kindsOf(shape)) await streamed.add(kind, GRAPHS[kind](shape, many, new GraphBuilder(), 'V'))
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
    chunkTokens: CHUNK_TOKENS,
    embedding_vocab_dim,
    headRows: head.map(({ out }) => out),
    run: (kind, at, tokens, inputs, outputs) =>
      kind === 'logits' || tokens === 1
        ? packed.run(kind, at, inputs, outputs)
        : streamed.run(kind, { ...inputs, ...layerSlots(many, kind, layers[at.at]!, at.expert) }, outputs),
    release: async () => {
      await packed.release()
      await streamed.release()
    },
  }
}

/** How many sessions the layers of a packed model are: two to a layer, and one to each expert. */
export const packedSessionCount = ({ layerShapes, experts }: ModelShape): number =>
  layerShapes.reduce((sum, layer) => sum + 2 + (layer.experts ? experts!.count : 0), 0)

/** A session to each layer and to each piece of the head. */
class PackedSessions<M extends Sized> {
  readonly #shape: ModelShape
  readonly #linear: LinearFormat<M>
  readonly #sessions: SessionSet
  #layers = 0

  /** @param arena many tokens at once are a fifth faster with it, and each of the sessions keeps what they took */
  constructor(shape: ModelShape, linear: LinearFormat<M>, threads: number, arena: boolean) {
    this.#shape = shape
    this.#linear = linear
    this.#sessions = new SessionSet(threads, { arena })
  }

  async addLayer(layer: LayerWeights<M>): Promise<void> {
    const at = this.#layers++
    for (const kind of layer.experts ? (['project', 'join'] as const) : (['project', 'mix'] as const))
      await this.#add(kind, { at }, layerSlots(this.#linear, kind, layer), 0)
    for (const expert of layer.experts?.mlps.keys() ?? [])
      await this.#add('expert', { at, expert }, layerSlots(this.#linear, 'expert', layer, expert), 0)
  }

  async addHead(gain: Floats, pieces: readonly M[]): Promise<void> {
    for (const [at, piece] of pieces.entries())
      await this.#add('logits', { at }, headSlots(this.#linear, gain, piece), piece.out)
  }

  run(kind: WeightedKind, place: Place, inputs: Slots, outputs: Slots): Promise<void> {
    return this.#sessions.run(sessionName(kind, place), inputs, outputs)
  }

  release(): Promise<void> {
    return this.#sessions.release()
  }

  #add(kind: WeightedKind, place: Place, slots: Slots, headRows: number): Promise<void> {
    const graph = GRAPHS[kind](this.#shape, linearOf(this.#linear, kind), new GraphBuilder(slots), headRows)
    return this.#sessions.add(sessionName(kind, place), graph)
  }
}

/** How the graphs of this kind multiply. */
const linearOf = <M>({ multiplicand, head }: LinearFormat<M>, kind: WeightedKind) => ({
  multiplicand: kind === 'logits' ? (head ?? multiplicand) : multiplicand,
})

const sessionName = (kind: WeightedKind, { at, expert = -1 }: Place): string => `${kind} ${at} ${expert}`

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

/** The vectors that a graph reads, where the model has them. */
const VECTORS = {
  project: ['attention_norm', 'q_norm', 'k_norm', 'q_bias', 'k_bias', 'v_bias'],
  join: ['o_bias', 'attention_out_norm', 'mlp_norm'],
  mix: ['o_bias', 'attention_out_norm', 'mlp_norm', 'gate_bias', 'up_bias', 'down_bias', 'mlp_out_norm'],
  expert: [],
} as const

function layerSlots<M>(
  linear: LinearFormat<M>,
  kind: Exclude<WeightedKind, 'logits'>,
  { vectors, attention, mlp, experts }: LayerWeights<M>,
  expert = 0,
): Slots {
  const slots: Record<string, Slot> = {}
  for (const name of VECTORS[kind]) {
    const vector = vectors[name]
    if (vector !== undefined) slots[name] = [vector, [vector.length]]
  }
  const { q, k, v, o } = attention
  const matrices = {
    project: { q, k, v },
    join: { o },
    mix: { o, ...mlp },
    expert: { ...experts?.mlps[expert] },
  }[kind]
  for (const [name, matrix] of Object.entries(matrices)) Object.assign(slots, linear.slots(`${name}_weight`, matrix))
  if (kind === 'join' && experts) {
    const { router_experts_dim: router, mlps } = experts
    slots['router_weight'] = [router, [mlps.length, router.length / mlps.length]]
  }
  return slots
}

const headSlots = <M>(linear: LinearFormat<M>, gain: Floats, piece: M): Slots => ({
  final_norm: [gain, [gain.length]],
  ...linear.slots('head_weight', piece),
})
