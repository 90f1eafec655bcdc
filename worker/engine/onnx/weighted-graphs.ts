import type { ModelShape } from '../../../shared/model-shape.ts'
import { halvedIfExact, type Rows } from '../../model/rows.ts'
import { type Keeping, type LayerWeights, loadWeights } from '../../model/weights.ts'
import type { Floats } from '../host-tensors.ts'
import { GraphBuilder } from './graph-builder.ts'
import { GRAPHS } from './graphs.ts'
import type { LinearFormat } from './linear/linear.ts'
import { SessionSet, type Slots } from './session-set.ts'

/** The graphs that need weights, of a whole model. */
export interface WeightedGraphs {
  readonly embedding_vocab_dim: Rows
  /** Rows of each piece of the head, from the top. */
  readonly headRows: readonly number[]
  /** One call. `at` is the layer, or the piece of the head. */
  run(kind: WeightedKind, at: number, inputs: Slots, outputs: Slots): Promise<void>
  release(): Promise<void>
}

type WeightedKind = 'project' | 'mix' | 'logits'
type Sized = { readonly out: number }

/**
 * One session to a kind of graph, weights passed in with each call: a few kilobytes beside the weights themselves, and
 * loading is reading. For work on many tokens at once, where packing a weight for the kernel is paid back in the call.
 */
export async function streamedWeights<M extends Sized>(
  folder: string,
  shape: ModelShape,
  linear: LinearFormat<M>,
  threads: number,
): Promise<WeightedGraphs> {
  const weights = await loadWeights(folder, shape, { ...linear, keepLayer: (layer) => layer })
  const sessions = new SessionSet(threads)
  for (const kind of ['project', 'mix', 'logits'] as const)
    await sessions.add(kind, GRAPHS[kind](shape, linear, new GraphBuilder()))
  const slotsOf = (kind: WeightedKind, at: number): Slots =>
    kind === 'logits'
      ? headSlots(linear, weights.finalNorm_dim, weights.head[at]!)
      : layerSlots(linear, kind, weights.layers[at]!)
  return {
    embedding_vocab_dim: weights.embedding_vocab_dim,
    headRows: weights.head.map(({ out }) => out),
    run: (kind, at, inputs, outputs) => sessions.run(kind, { ...inputs, ...slotsOf(kind, at) }, outputs),
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
  const sessions = new SessionSet(threads)
  const add = (kind: WeightedKind, at: number, slots: Slots): Promise<void> =>
    sessions.add(`${kind} ${at}`, GRAPHS[kind](shape, linear, new GraphBuilder(slots)))
  let layers = 0
  const keeping: Keeping<M, number> = {
    ...linear,
    keepLayer: async (layer) => {
      await add('project', layers, layerSlots(linear, 'project', layer))
      await add('mix', layers, layerSlots(linear, 'mix', layer))
      return layers++
    },
    keepRows: halvedIfExact, // the head is packed apart from it anyway
  }
  const { embedding_vocab_dim, head, finalNorm_dim } = await loadWeights(folder, shape, keeping)
  for (const [at, piece] of head.entries()) await add('logits', at, headSlots(linear, finalNorm_dim, piece))
  return {
    embedding_vocab_dim,
    headRows: head.map(({ out }) => out),
    run: (kind, at, inputs, outputs) => sessions.run(`${kind} ${at}`, inputs, outputs),
    release: () => sessions.release(),
  }
}

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
