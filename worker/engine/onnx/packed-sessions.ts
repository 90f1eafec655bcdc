import type { ModelShape } from '../../../shared/model-shape.ts'
import type { LayerWeights } from '../../model/weights.ts'
import type { Floats } from '../host-tensors.ts'
import { GraphBuilder } from './graph-builder.ts'
import { GRAPHS, type WeightedKind } from './graphs.ts'
import { type LayerPart, layerGraph, partSlots, stepGraph } from './layer-graph.ts'
import type { FormatInUse } from './linear/linear.ts'
import { SessionSet, type Slots } from './session-set.ts'
import { headSlots, layerSlots } from './weight-slots.ts'

/** A layer, or the piece of the head; and which of the layer's experts. */
export interface Place {
  readonly at: number
  readonly expert?: number
}

/** How many sessions the layers of a packed model are: one to a layer, or two and one to each expert. */
export const packedSessionCount = ({ layerShapes, experts }: ModelShape): number =>
  layerShapes.reduce((sum, layer) => sum + (layer.experts ? 2 + experts!.count : 1), 0)

interface Packing {
  readonly threads: number
  /** Many tokens at once are a fifth faster with it, and each of the sessions keeps what they took. */
  readonly arena: boolean
  /** Many tokens go through these sessions too, in parts; without it a layer has `step` alone. */
  readonly parts: boolean
}

/** A session to each layer and to each piece of the head, in which its weights are packed for the kernels. */
export class PackedSessions<M extends { readonly out: number }> {
  readonly #shape: ModelShape
  readonly #linear: FormatInUse<M>
  readonly #parts: boolean
  readonly #sessions: SessionSet
  readonly #partSlots: Readonly<Record<LayerPart, Slots>>
  #layers = 0

  constructor(shape: ModelShape, linear: FormatInUse<M>, { threads, arena, parts }: Packing) {
    this.#shape = shape
    this.#linear = linear
    this.#parts = parts
    this.#sessions = new SessionSet(threads, { arena, renewable: false })
    this.#partSlots = partSlots(shape)
  }

  async addLayer(layer: LayerWeights<M>): Promise<void> {
    const at = this.#layers++
    const { mlps } = layer.experts ?? {}
    if (mlps === undefined) return this.#addWhole(at, layer)
    for (const kind of ['project', 'join'] as const)
      await this.#add(kind, { at }, layerSlots(this.#linear, kind, layer))
    for (const expert of mlps.keys())
      await this.#add('expert', { at, expert }, layerSlots(this.#linear, 'expert', layer, expert))
  }

  async addHead(gain: Floats, pieces: readonly M[]): Promise<void> {
    for (const [at, piece] of pieces.entries())
      await this.#add('logits', { at }, headSlots(this.#linear, gain, piece), piece.out)
  }

  has(kind: WeightedKind, place: Place): boolean {
    return this.#sessions.has(sessionName(kind, place)) || this.#sessions.has(sessionName('layer', place))
  }

  run(kind: WeightedKind | LayerPart, place: Place, inputs: Slots, outputs: Slots): Promise<void> {
    const layer = sessionName('layer', place)
    return isPart(kind) && this.#sessions.has(layer)
      ? this.#sessions.run(layer, { ...this.#partSlots[kind], ...inputs }, outputs)
      : this.#sessions.run(sessionName(kind, place), inputs, outputs)
  }

  release(): Promise<void> {
    return this.#sessions.release()
  }

  #addWhole(at: number, layer: LayerWeights<M>): Promise<void> {
    const [name, graph] = this.#parts ? (['layer', layerGraph] as const) : (['step', stepGraph] as const)
    const g = new GraphBuilder(layerSlots(this.#linear, 'layer', layer))
    return this.#sessions.add(sessionName(name, { at }), graph(this.#shape, this.#linear, g))
  }

  #add(kind: WeightedKind, place: Place, slots: Slots, headRows = 0): Promise<void> {
    const graph = GRAPHS[kind](this.#shape, linearOf(this.#linear, kind), new GraphBuilder(slots), headRows)
    return this.#sessions.add(sessionName(kind, place), graph)
  }
}

const isPart = (kind: WeightedKind | LayerPart): kind is LayerPart =>
  kind === 'project' || kind === 'mix' || kind === 'step'

const sessionName = (kind: string, { at, expert = -1 }: Place): string => `${kind} ${at} ${expert}`

/** How the graphs of this kind multiply. */
export const linearOf = <M>({ multiplicand, head }: FormatInUse<M>, kind: WeightedKind) => ({
  multiplicand: kind === 'logits' ? (head ?? multiplicand) : multiplicand,
})
