import { abortError } from '../../shared/errors.ts'
import { type Span, spanTokens, type Wire } from '../../shared/plan.ts'
import type { EncodedKv, Engine, Kv } from '../engine/engine.ts'
import { isIntact, summed } from '../kv/block.ts'
import type { Wanted } from '../kv/expected-blocks.ts'
import type { Incoming } from '../kv/incoming.ts'
import type { DeliveredBlock, KvBlock } from '../prefill/exchange.ts'

/**
 * The KV cache of one run at the decode node: room for every position the run can reach, filled block by block while the
 * prefill still runs, in any order. One reader follows, layer by layer, and takes each position of the prompt once.
 * Identity and size of a block were checked when its header came; its bytes are checked here, just before they are used.
 */
export class Assembly {
  readonly kv_layers: readonly Kv[]
  readonly #engine: Engine
  readonly #incoming: Incoming
  readonly #signal: AbortSignal
  readonly #prompt: Span
  /** Per layer: where blocks of others begin that are in the cache. */
  readonly #held_layers: Set<number>[]
  /** Who waits for one of them. */
  readonly #awaiting = new Map<string, (() => void)[]>()
  /** The last block that was asked for. */
  #exporting: Promise<unknown> = Promise.resolve()
  /** Per layer: what is in the cache and not taken yet. */
  readonly #arrived_layers: Span[][]
  readonly #untaken_layers: number[]
  #missing: number
  #wakeReader: () => void = () => undefined
  readonly #complete: Promise<void>
  /** The last block's import. An engine may work on one while others come. */
  #importing: Promise<void> = Promise.resolve()
  #resolve: () => void = () => undefined

  constructor(of: {
    engine: Engine
    promptTokens: number
    /** Positions that it must have room for: prompt and answer. */
    capacity: number
    /** What other workers compute, for each layer. */
    blocks: readonly Span[]
    incoming: Incoming
    signal: AbortSignal
  }) {
    const { engine, capacity, signal } = of
    const { layers } = engine.shape
    this.#engine = engine
    this.#incoming = of.incoming
    this.#signal = signal
    this.#prompt = { start: 0, end: of.promptTokens }
    this.#missing = of.blocks.length * layers
    this.#arrived_layers = Array.from({ length: layers }, () => [])
    this.#held_layers = Array.from({ length: layers }, () => new Set())
    this.#untaken_layers = Array.from({ length: layers }, () => of.promptTokens)
    this.kv_layers = Array.from({ length: layers }, () => engine.createKv(0, capacity))
    this.#complete = new Promise((resolve, reject) => {
      this.#resolve = resolve
      const onAbort = (): void => {
        reject(abortError(signal))
        this.#wakeReader()
        for (const wakes of this.#awaiting.values()) for (const wake of wakes) wake()
      }
      signal.addEventListener('abort', onAbort, { once: true })
    })
    // Who never asks whether the cache is complete need not hear that it was cancelled.
    this.#complete.catch(() => undefined)
    if (this.#missing === 0) this.#resolve()
  }

  /**
   * Blocks go in one after the other. Resolves to whether this one was undamaged; if not, it is as if it had not come.
   * Rejects once the run is cancelled.
   */
  add(block: DeliveredBlock): Promise<boolean> {
    const added = this.#importing.then(() => this.#import(block))
    this.#importing = added.then(
      () => undefined,
      () => undefined, // told to who added it
    )
    return added
  }

  async #import(delivered: DeliveredBlock): Promise<boolean> {
    if (this.#signal.aborted) throw abortError(this.#signal)
    const block = this.#incoming.take(delivered)
    if (!isIntact(block)) return false
    await this.#engine.importKv(this.kv_layers[block.layer]!, block.start, block.count, block)
    this.#hold(block.layer, block.start)
    this.#arrive(block.layer, { start: block.start, end: block.start + block.count })
    if (--this.#missing === 0) this.#resolve()
    return true
  }

  /** A block of another worker, once it is in the cache. Rejects when the run is cancelled first. */
  async fetch({ layer, start, count }: Wanted, wire: Wire): Promise<KvBlock> {
    const key = `${layer} ${start}`
    while (!this.#held_layers[layer]?.has(start)) {
      if (this.#signal.aborted) throw abortError(this.#signal)
      await new Promise<void>((resolve) => {
        this.#awaiting.set(key, [...(this.#awaiting.get(key) ?? []), resolve])
      })
    }
    if (this.#signal.aborted) throw abortError(this.#signal)
    return summed({ layer, start, count, ...(await this.#export(layer, start, count, wire)) })
  }

  #export(layer: number, start: number, count: number, wire: Wire): Promise<EncodedKv> {
    const exported = this.#engine.exportKv(this.kv_layers[layer]!, start, count, wire)
    this.#exporting = Promise.allSettled([this.#exporting, exported])
    return exported
  }

  #hold(layer: number, start: number): void {
    this.#held_layers[layer]!.add(start)
    const key = `${layer} ${start}`
    for (const wake of this.#awaiting.get(key) ?? []) wake()
    this.#awaiting.delete(key)
  }

  /** The decode node has written the K and V of its own tokens, `[start, end of the prompt)`. */
  computed(layer: number, start: number): void {
    this.#arrive(layer, { start, end: this.#prompt.end })
  }

  /**
   * What of `layer` is in the cache and has not been taken yet, in ascending order, neighbours as one; waits while there
   * is nothing new, and is `undefined` when the whole prompt has been taken. Rejects when the run is cancelled.
   */
  async take(layer: number): Promise<Span[] | undefined> {
    for (;;) {
      if (this.#signal.aborted) throw abortError(this.#signal)
      if (this.#untaken_layers[layer] === 0) return undefined
      const arrived = this.#arrived_layers[layer]!.splice(0)
      if (arrived.length > 0) {
        this.#untaken_layers[layer]! -= spanTokens(arrived)
        return joined(arrived)
      }
      await new Promise<void>((resolve) => {
        this.#wakeReader = resolve
      })
    }
  }

  /** Every block of the others is in. Rejects when the run is cancelled first. */
  complete(): Promise<void> {
    return this.#complete
  }

  /** Resolves when nothing is being written there, or read: whoever releases the memory sooner gives it to the next run. */
  async settled(): Promise<void> {
    await this.#importing
    await this.#exporting
  }

  #arrive(layer: number, span: Span): void {
    this.#arrived_layers[layer]!.push(span)
    this.#wakeReader()
  }
}

/** The same positions in as few spans as possible, in ascending order. */
function joined(spans: readonly Span[]): Span[] {
  const result: { start: number; end: number }[] = []
  for (const { start, end } of spans.toSorted((a, b) => a.start - b.start)) {
    const last = result.at(-1)
    if (last?.end === start) last.end = end
    else result.push({ start, end })
  }
  return result
}
