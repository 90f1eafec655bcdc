import { abortError, HeadraceError } from '../../shared/errors.ts'
import { kvBytesPerTokenLayer } from '../../shared/model-shape.ts'
import type { Engine, Kv } from '../engine/engine.ts'
import { checkBlock } from '../kv/block.ts'
import type { KvBlock } from '../prefill/exchange.ts'

/**
 * The KV cache of one run at the decode node: room for every position the run can reach, filled block by block while the
 * prefill still runs. Identity and size of a block were checked when its header came; its bytes are checked here, just
 * before they are used.
 */
export class Assembly {
  readonly kv_layers: readonly Kv[]
  readonly #engine: Engine
  #missing: number
  readonly #complete: Promise<void>
  readonly #signal: AbortSignal
  /** The last block's import. An engine may work on one while others come. */
  #importing: Promise<void> = Promise.resolve()
  #resolve: () => void = () => undefined

  /** @throws HeadraceError `out_of_memory` if the cache does not fit `budgetBytes` */
  constructor(of: {
    engine: Engine
    capacity: number
    expectedBlocks: number
    budgetBytes: number
    signal: AbortSignal
  }) {
    const { engine, capacity, signal } = of
    const bytes = engine.shape.layers * capacity * kvBytesPerTokenLayer(engine.shape)
    if (bytes > of.budgetBytes)
      throw new HeadraceError('out_of_memory', `a KV cache of ${capacity} tokens does not fit the budget`, {
        details: { bytes, budgetBytes: of.budgetBytes },
      })
    this.#engine = engine
    this.#signal = signal
    this.#missing = of.expectedBlocks
    this.kv_layers = Array.from({ length: engine.shape.layers }, () => engine.createKv(0, capacity))
    this.#complete = new Promise((resolve, reject) => {
      this.#resolve = resolve
      signal.addEventListener('abort', () => reject(abortError(signal)), { once: true })
    })
    // Who never asks whether the cache is complete need not hear that it was cancelled.
    this.#complete.catch(() => undefined)
    if (this.#missing === 0) this.#resolve()
  }

  /** Blocks go in one after the other. Rejects with what is wrong with this one, or once the run is cancelled. */
  add(block: KvBlock): Promise<void> {
    const added = this.#importing.then(() => this.#import(block))
    this.#importing = added.catch(() => undefined) // told to who added it
    return added
  }

  async #import(block: KvBlock): Promise<void> {
    if (this.#signal.aborted) throw abortError(this.#signal)
    checkBlock(block)
    await this.#engine.importKv(this.kv_layers[block.layer]!, block.start, block.count, block)
    if (--this.#missing === 0) this.#resolve()
  }

  /** Every block is in. Rejects when the run is cancelled first. */
  complete(): Promise<void> {
    return this.#complete
  }

  /** Only once nothing is being written there: the memory is the next run's at once. */
  async release(): Promise<void> {
    await this.#importing
    this.#engine.release(...this.kv_layers)
  }
}
