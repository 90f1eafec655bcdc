import { isDeepStrictEqual } from 'node:util'
import type { ModelShape } from '../../../shared/model-shape.ts'
import type { LayerWeights } from '../../model/weights.ts'
import type { Floats } from '../host-tensors.ts'
import { GraphBuilder } from './graph-builder.ts'
import { GRAPHS, type WeightedKind } from './graphs.ts'
import { layerScope, layersGraph, PartSlots, stepGraph } from './layers-graph.ts'
import type { FormatInUse } from './linear/linear.ts'
import { bytesOf, SessionSet, type Slot, type Slots } from './session-set.ts'
import { headSlots, layerSlots } from './weight-slots.ts'

/** A layer, or the piece of the head; and which of the layer's experts. */
export interface Place {
  readonly at: number
  readonly expert?: number
}

/** How many sessions a packed model is at most: one to a layer, or two and one to each expert. */
export const packedSessionCount = ({ layerShapes, experts }: ModelShape): number =>
  layerShapes.reduce((sum, layer) => sum + (layer.experts ? 2 + experts!.count : 1), 0)

interface Packing {
  readonly threads: number
  /** Many tokens at once are a fifth faster with it, and each of the sessions keeps what they took. */
  readonly arena: boolean
  /** Many tokens go through these sessions too, in parts; without it they take single tokens alone. */
  readonly parts: boolean
}

/** Layers `[from, to)`, alike and without experts, that a token goes through in one call. */
export interface Stride {
  readonly from: number
  readonly to: number
  /** Where many tokens go through the same session, in parts. */
  readonly parts?: PartSlots
}

/**
 * Weights of one stride. A call's own time is a tenth of a small layer's and nothing beside such a stride's, which is
 * read in some milliseconds: longer ones would make others wait for their turn.
 */
const STRIDE_BYTES = 2 ** 26

/** Sessions of the layers and of each piece of the head, in which their weights are packed for the kernels. */
export class PackedSessions<M extends { readonly out: number }> {
  readonly #shape: ModelShape
  readonly #linear: FormatInUse<M>
  readonly #parts: boolean
  readonly #sessions: SessionSet
  readonly #strides: Stride[] = []
  #layers = 0
  /** Of the last layers, which are no session yet. */
  #gathered: Slots[] = []

  constructor(shape: ModelShape, linear: FormatInUse<M>, { threads, arena, parts }: Packing) {
    this.#shape = shape
    this.#linear = linear
    this.#parts = parts
    this.#sessions = new SessionSet(threads, { arena, renewable: false })
  }

  /** In their order; layers with experts are in none. */
  get strides(): readonly Stride[] {
    return this.#strides
  }

  async addLayer(layer: LayerWeights<M>): Promise<void> {
    const at = this.#layers
    const { mlps } = layer.experts ?? {}
    if (mlps === undefined) {
      const slots = layerSlots(this.#linear, 'layer', layer)
      if (!this.#goesOn(slots)) await this.#endStride()
      this.#gathered.push(slots)
    } else {
      await this.#endStride()
      for (const kind of ['project', 'join'] as const)
        await this.#add(kind, { at }, layerSlots(this.#linear, kind, layer))
      for (const expert of mlps.keys())
        await this.#add('expert', { at, expert }, layerSlots(this.#linear, 'expert', layer, expert))
    }
    this.#layers += 1
  }

  /** After all layers. */
  async addHead(gain: Floats, pieces: readonly M[]): Promise<void> {
    await this.#endStride()
    for (const [at, piece] of pieces.entries())
      await this.#add('logits', { at }, headSlots(this.#linear, gain, piece), piece.out)
  }

  has(kind: WeightedKind, place: Place): boolean {
    return this.#sessions.has(sessionName(kind, place)) || this.#inStride(kind, place) !== undefined
  }

  run(kind: WeightedKind, place: Place, inputs: Slots, outputs: Slots): Promise<void> {
    const stride = this.#inStride(kind, place)
    if (stride === undefined) return this.#sessions.run(sessionName(kind, place), inputs, outputs)
    const { half, at, slots } = stride
    return this.#sessions.run(strideName(stride), slots.half(half, at, inputs), slots.written(at, outputs))
  }

  /** One token through all layers of a stride. */
  step(stride: Stride, inputs: Slots, outputs: Slots): Promise<void> {
    return this.#sessions.run(strideName(stride), { ...stride.parts?.step, ...inputs }, outputs)
  }

  release(): Promise<void> {
    return this.#sessions.release()
  }

  #inStride(kind: WeightedKind, { at }: Place) {
    if (kind !== 'project' && kind !== 'mix') return undefined
    const stride = this.#strides.find(({ from, to }) => from <= at && at < to)
    return stride?.parts && { ...stride, half: kind, at: at - stride.from, slots: stride.parts }
  }

  #goesOn(slots: Slots): boolean {
    const { layerShapes } = this.#shape
    const bytes = [...this.#gathered, slots].reduce((sum, layer) => sum + bytesOf(layer), 0)
    return bytes <= STRIDE_BYTES && isDeepStrictEqual(layerShapes[this.#layers - 1], layerShapes[this.#layers])
  }

  async #endStride(): Promise<void> {
    const gathered = this.#gathered
    const layers = gathered.length
    if (layers === 0) return
    this.#gathered = []
    const bound: Record<string, Slot> = {}
    for (const [at, slots] of gathered.entries())
      for (const [name, slot] of Object.entries(slots)) bound[`${layerScope(at)}${name}`] = slot
    const parts = this.#parts ? { parts: new PartSlots(this.#shape, layers) } : {}
    const stride = { from: this.#layers - layers, to: this.#layers, ...parts }
    const graph = this.#parts ? layersGraph : stepGraph
    const linear = linearOf(this.#linear, 'project')
    await this.#sessions.add(strideName(stride), graph(this.#shape, linear, new GraphBuilder(bound), layers))
    this.#strides.push(stride)
  }

  #add(kind: WeightedKind, place: Place, slots: Slots, headRows = 0): Promise<void> {
    const graph = GRAPHS[kind](this.#shape, linearOf(this.#linear, kind), new GraphBuilder(slots), headRows)
    return this.#sessions.add(sessionName(kind, place), graph)
  }
}

const sessionName = (kind: string, { at, expert = -1 }: Place): string => `${kind} ${at} ${expert}`
const strideName = ({ from, to }: Stride): string => `layers ${from} to ${to}`

/** How the graphs of this kind multiply. */
export const linearOf = <M>({ multiplicand, head }: FormatInUse<M>, kind: WeightedKind) => ({
  multiplicand: kind === 'logits' ? (head ?? multiplicand) : multiplicand,
})
