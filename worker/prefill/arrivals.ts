import { abortError } from '../../shared/errors.ts'
import type { KvBlock } from './exchange.ts'

/**
 * Blocks that have arrived but are not yet folded in, by layer. The credit window of the sockets' side bounds how many
 * there can be; here one reader waits for the next of its layer.
 */
export class Arrivals {
  readonly #perLayer: number
  readonly #signal: AbortSignal
  readonly #held = new Map<number, KvBlock[]>()
  #layer = 0
  /** Of the layer that is read now. */
  #taken: KvBlock[] = []
  #wake: (() => void) | undefined

  /** @param perLayer blocks of other workers that every layer needs */
  constructor(perLayer: number, signal: AbortSignal) {
    this.#perLayer = perLayer
    this.#signal = signal
    signal.addEventListener('abort', () => this.#wake?.(), { once: true })
  }

  add(block: KvBlock): void {
    const layer = this.#held.get(block.layer)
    if (layer) layer.push(block)
    else this.#held.set(block.layer, [block])
    this.#wake?.()
  }

  /** The next block of `layer`, or `undefined` when all of it have been taken. Layers are read in ascending order. */
  async next(layer: number): Promise<KvBlock | undefined> {
    if (layer !== this.#layer) {
      this.#layer = layer
      this.#taken = []
    }
    if (this.#taken.length === this.#perLayer) return undefined
    for (;;) {
      if (this.#signal.aborted) throw abortError(this.#signal)
      const block = this.#held.get(layer)?.shift()
      if (block !== undefined) {
        this.#taken.push(block)
        return block
      }
      await new Promise<void>((resolve) => {
        this.#wake = resolve
      })
    }
  }

  /** The layer is done with. Returns the memory of its blocks, which nobody reads any more. */
  release(layer: number): ArrayBuffer[] {
    this.#held.delete(layer)
    return this.#layer === layer ? this.#taken.splice(0).map(({ bytes }) => bytes.buffer) : []
  }
}
