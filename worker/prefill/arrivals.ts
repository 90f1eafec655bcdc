import { abortError } from '../../shared/errors.ts'
import type { DeliveredBlock } from './exchange.ts'

/**
 * Blocks that have arrived but are not yet folded in, by layer. The credit window of the sockets' side bounds how many
 * there can be; here one reader waits for the next of its layer.
 */
export class Arrivals {
  readonly #perLayer: number
  readonly #signal: AbortSignal
  readonly #held = new Map<number, DeliveredBlock[]>()
  #layer = 0
  #taken = 0
  #wake: (() => void) | undefined

  /** @param perLayer blocks of other workers that every layer needs */
  constructor(perLayer: number, signal: AbortSignal) {
    this.#perLayer = perLayer
    this.#signal = signal
    signal.addEventListener('abort', () => this.#wake?.(), { once: true })
  }

  add(block: DeliveredBlock): void {
    const layer = this.#held.get(block.layer)
    if (layer) layer.push(block)
    else this.#held.set(block.layer, [block])
    this.#wake?.()
  }

  /** The next block of `layer`, or `undefined` when all of it have been taken. Layers are read in ascending order. */
  async next(layer: number): Promise<DeliveredBlock | undefined> {
    if (layer !== this.#layer) {
      this.#layer = layer
      this.#taken = 0
    }
    if (this.#taken === this.#perLayer) return undefined
    for (;;) {
      if (this.#signal.aborted) throw abortError(this.#signal)
      const block = this.#held.get(layer)?.shift()
      if (block !== undefined) {
        this.#taken++
        return block
      }
      await new Promise<void>((resolve) => {
        this.#wake = resolve
      })
    }
  }

  /** A block that was taken is of no use: another one is to come in its place. */
  again(): void {
    this.#taken--
  }

  release(layer: number): void {
    this.#held.delete(layer)
  }
}
