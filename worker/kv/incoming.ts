import type { DeliveredBlock, KvBlock } from '../prefill/exchange.ts'

/** Messages about less would cost more than the memory is worth. */
const TOLD_TOGETHER = 4

/**
 * Delivered blocks on their way into an engine, which refuses memory that two threads can see: each is copied, one at a
 * time and to the same place, which the core's cache holds.
 */
export class Incoming {
  readonly #onUsed: (ids: number[]) => void
  #used: number[] = []
  #bytes = new Uint8Array(0)

  /** @param onUsed is told which blocks' memory is needed no more; of a run's last few, never */
  constructor(onUsed: (ids: number[]) => void) {
    this.#onUsed = onUsed
  }

  /** The block, until the next one is taken. */
  take({ id, bytes, ...block }: DeliveredBlock): KvBlock {
    if (this.#bytes.length < bytes.length) this.#bytes = new Uint8Array(bytes.length)
    const copy = this.#bytes.subarray(0, bytes.length)
    copy.set(bytes)
    this.#used.push(id)
    if (this.#used.length === TOLD_TOGETHER) this.#onUsed(this.#used.splice(0))
    return { ...block, bytes: copy }
  }
}
