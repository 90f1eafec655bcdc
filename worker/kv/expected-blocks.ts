import { HeadraceError } from '../../shared/errors.ts'
import type { ModelShape } from '../../shared/model-shape.ts'
import { blocksOf, type Span, WIRES, type Wire } from '../../shared/plan.ts'
import type { RunWorker } from '../../shared/protocol/control.ts'
import type { KvHeader } from '../../shared/protocol/peer.ts'
import { wireBytes } from '../../shared/wire-bytes.ts'

/** What must stand at one place. */
interface Place {
  readonly count: number
  readonly maker: RunWorker
  readonly wire: Wire
}

/** A block that is expected. */
export interface Wanted {
  readonly layer: number
  readonly start: number
  readonly count: number
}

/**
 * The KV blocks a worker is to receive in a run, known from the plan before the first one arrives. Every block must be
 * one of them, of this model, no less precise than planned, of exactly the size its place asks for: anything else is a
 * coded error, found from the header before the payload is looked at. A place may be filled twice, where a block is made
 * again because the first one may not come: the second one is not wanted.
 */
export class ExpectedBlocks {
  readonly #places: ReadonlyMap<number, Place>
  /** Per layer: start positions of what is still to come. */
  readonly #open_layers: Set<number>[]
  readonly #of: ExpectedOptions
  #remaining: number

  constructor(of: ExpectedOptions) {
    const places = of.makers.flatMap((maker) =>
      blocksOf(maker.spans, of.blockTokens).map(
        ({ start, end }) => [start, { count: end - start, maker, wire: of.wireOf(maker) }] as const,
      ),
    )
    this.#of = of
    this.#places = new Map(places)
    this.#open_layers = Array.from({ length: of.layers }, () => new Set(this.#places.keys()))
    this.#remaining = this.#places.size * of.layers
  }

  get remaining(): number {
    return this.#remaining
  }

  /**
   * Checks a block off. Returns whose place it is by the plan, or nothing if the block is there already. Throws
   * `kv_identity` (wrong model, place or maker), `stale_epoch` (a maker that was given up since) or `kv_shape` (size,
   * precision).
   */
  take(header: KvHeader, payloadBytes: number): RunWorker | undefined {
    const where = `layer ${header.layer}, position ${header.start}, from ${header.origin}`
    const { fingerprint } = this.#of
    if (header.fingerprint !== fingerprint)
      throw new HeadraceError('kv_identity', `KV block of another model (${where})`, {
        details: { expected: fingerprint, found: header.fingerprint },
      })
    const open = this.#open_layers[header.layer]
    const place = this.#places.get(header.start)
    if (place === undefined || open === undefined)
      throw new HeadraceError('kv_identity', `KV block that the plan does not have (${where})`)
    this.#checkOrigin(header, place, where)
    if (WIRES.indexOf(header.dtype) > WIRES.indexOf(place.wire))
      throw new HeadraceError('kv_shape', `KV block of less precision than planned (${where})`, {
        details: { expected: place.wire, found: header.dtype },
      })
    if (place.count !== header.count || payloadBytes !== wireBytes(this.#of.heads, header.count, header.dtype))
      throw new HeadraceError('kv_shape', `KV block of a wrong size (${where})`, {
        details: { expectedTokens: place.count, foundTokens: header.count, foundBytes: payloadBytes },
      })
    if (!open.delete(header.start)) return undefined
    this.#remaining--
    return place.maker
  }

  /** A block that was taken is of no use: it is to come again. */
  again(layer: number, start: number): void {
    this.#open_layers[layer]!.add(start)
    this.#remaining++
  }

  /** Whether there is a place for such a block. */
  has({ layer, start, count }: Wanted): boolean {
    return this.#open_layers[layer] !== undefined && this.#places.get(start)?.count === count
  }

  /** All that is still to come, lowest layer first, within a layer lowest position first. */
  missing(): Wanted[] {
    return this.#open_layers.flatMap((open, layer) =>
      [...open].sort((a, b) => a - b).map((start) => ({ layer, start, count: this.#places.get(start)!.count })),
    )
  }

  /** The blocks of these spans that are not whole, each with the first of these layers that is missing. */
  missingOf(spans: readonly Span[], { from, to }: { from: number; to: number }): (Span & { layer: number })[] {
    return blocksOf(spans, this.#of.blockTokens).flatMap(({ start, end }) => {
      const layer = this.#open_layers.findIndex((open, at) => at >= from && at < to && open.has(start))
      return layer < 0 ? [] : [{ start, end, layer }]
    })
  }

  #checkOrigin({ origin, epoch }: KvHeader, { maker }: Place, where: string): void {
    if (this.#of.others?.(origin)) return
    if (origin !== maker.worker)
      throw new HeadraceError('kv_identity', `KV block of a place that is not its maker's (${where})`)
    if (epoch !== maker.epoch)
      throw new HeadraceError('stale_epoch', `KV block of a time before its maker came back (${where})`, {
        details: { expected: maker.epoch, found: epoch },
      })
  }
}

interface ExpectedOptions {
  readonly makers: readonly RunWorker[]
  readonly blockTokens: number
  /** The precision that this maker's blocks are to have at least. */
  readonly wireOf: (maker: RunWorker) => Wire
  readonly layers: number
  readonly fingerprint: string
  readonly heads: Pick<ModelShape, 'kvHeads' | 'headDim'>
  /** Who may fill a place beside the one that the plan names. Default: nobody. */
  readonly others?: (origin: string) => boolean
}
