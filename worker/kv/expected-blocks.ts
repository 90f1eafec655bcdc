import { HeadraceError } from '../../shared/errors.ts'
import type { ModelShape } from '../../shared/model-shape.ts'
import { blocksOf, WIRES, type Wire } from '../../shared/plan.ts'
import type { RunWorker } from '../../shared/protocol/control.ts'
import type { KvHeader } from '../../shared/protocol/peer.ts'
import { wireBytes } from '../../shared/wire-bytes.ts'

/** What must stand at one place. */
interface Place {
  readonly count: number
  readonly origin: string
  readonly wire: Wire
}

/**
 * The KV blocks a worker is to receive in a run, known from the plan before the first one arrives. Every block must be
 * one of them, of this model, no less precise than planned, of exactly the size its place asks for, and come once:
 * anything else is a coded error, found from the header before the payload is looked at.
 */
export class ExpectedBlocks {
  /** Per layer: start position -> what must stand there. Taken blocks are removed. */
  readonly #byLayer: Map<number, Place>[]
  readonly #fingerprint: string
  readonly #heads: Heads
  #remaining: number

  constructor(of: {
    makers: readonly RunWorker[]
    blockTokens: number
    /** The precision that this maker's blocks are to have at least. */
    wireOf: (maker: RunWorker) => Wire
    layers: number
    fingerprint: string
    heads: Heads
  }) {
    const places = of.makers.flatMap((maker) => {
      const place = { origin: maker.worker, wire: of.wireOf(maker) }
      return blocksOf(maker.spans, of.blockTokens).map(({ start, end }) => ({ start, count: end - start, ...place }))
    })
    this.#byLayer = Array.from({ length: of.layers }, () => new Map(places.map(({ start, ...rest }) => [start, rest])))
    this.#fingerprint = of.fingerprint
    this.#heads = of.heads
    this.#remaining = places.length * of.layers
  }

  get remaining(): number {
    return this.#remaining
  }

  remainingInLayer(layer: number): number {
    return this.#byLayer[layer]?.size ?? 0
  }

  /** Checks a block off. Throws `kv_identity` (wrong model, place, maker, or seen before) or `kv_shape` (size, precision). */
  take(header: KvHeader, payloadBytes: number): void {
    const where = `layer ${header.layer}, position ${header.start}, from ${header.origin}`
    if (header.fingerprint !== this.#fingerprint)
      throw new HeadraceError('kv_identity', `KV block of another model (${where})`, {
        details: { expected: this.#fingerprint, found: header.fingerprint },
      })
    const place = this.#byLayer[header.layer]?.get(header.start)
    if (place === undefined || place.origin !== header.origin)
      throw new HeadraceError('kv_identity', `KV block that the plan does not have or that came twice (${where})`)
    if (WIRES.indexOf(header.dtype) > WIRES.indexOf(place.wire))
      throw new HeadraceError('kv_shape', `KV block of less precision than planned (${where})`, {
        details: { expected: place.wire, found: header.dtype },
      })
    if (place.count !== header.count || payloadBytes !== wireBytes(this.#heads, header.count, header.dtype))
      throw new HeadraceError('kv_shape', `KV block of a wrong size (${where})`, {
        details: { expectedTokens: place.count, foundTokens: header.count, foundBytes: payloadBytes },
      })
    this.#byLayer[header.layer]?.delete(header.start)
    this.#remaining--
  }
}

type Heads = Pick<ModelShape, 'kvHeads' | 'headDim'>
