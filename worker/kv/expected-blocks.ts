import { HeadraceError } from '../../shared/errors.ts'
import { blocksOf } from '../../shared/plan.ts'
import type { RunWorker } from '../../shared/protocol/control.ts'
import type { KvHeader } from '../../shared/protocol/peer.ts'

/**
 * The KV blocks a worker is to receive in a run, known from the plan before the first one arrives. Every block must be
 * one of them, of this model, of exactly the size its place asks for, and come once: anything else is a coded error,
 * found from the header before the payload is looked at.
 */
export class ExpectedBlocks {
  /** Per layer: start position -> what must stand there. Taken blocks are removed. */
  readonly #byLayer: Map<number, { count: number; origin: string }>[]
  readonly #fingerprint: string
  readonly #bytesPerToken: number
  #remaining: number

  constructor(of: {
    makers: readonly RunWorker[]
    blockTokens: number
    layers: number
    fingerprint: string
    /** float32 bytes of K and V of one token in one layer. */
    bytesPerToken: number
  }) {
    const places = of.makers.flatMap(({ worker, spans }) =>
      blocksOf(spans, of.blockTokens).map(({ start, end }) => ({ start, count: end - start, origin: worker })),
    )
    this.#byLayer = Array.from({ length: of.layers }, () => new Map(places.map(({ start, ...rest }) => [start, rest])))
    this.#fingerprint = of.fingerprint
    this.#bytesPerToken = of.bytesPerToken
    this.#remaining = places.length * of.layers
  }

  get remaining(): number {
    return this.#remaining
  }

  remainingInLayer(layer: number): number {
    return this.#byLayer[layer]?.size ?? 0
  }

  /** Checks a block off. Throws `kv_identity` (wrong model, place, maker, or seen before) or `kv_shape` (wrong size). */
  take(header: KvHeader, payloadBytes: number): void {
    const where = `layer ${header.layer}, position ${header.start}, from ${header.origin}`
    if (header.fingerprint !== this.#fingerprint)
      throw new HeadraceError('kv_identity', `KV block of another model (${where})`, {
        details: { expected: this.#fingerprint, found: header.fingerprint },
      })
    const place = this.#byLayer[header.layer]?.get(header.start)
    if (place === undefined || place.origin !== header.origin)
      throw new HeadraceError('kv_identity', `KV block that the plan does not have or that came twice (${where})`)
    if (place.count !== header.count || payloadBytes !== header.count * this.#bytesPerToken)
      throw new HeadraceError('kv_shape', `KV block of a wrong size (${where})`, {
        details: { expectedTokens: place.count, foundTokens: header.count, foundBytes: payloadBytes },
      })
    this.#byLayer[header.layer]?.delete(header.start)
    this.#remaining--
  }
}
