import type { Engine, Hidden, Kv, Query } from '../../worker/engine/engine.ts'

/** How a run is cut in tests: no result may depend on it. */
export interface Cutting {
  readonly chunkTokens: number
  /** Each layer's cache is made of KV tensors of this many positions. */
  readonly blockTokens: number
  /** The order in which a chunk folds the blocks; ascending unless given. */
  readonly order?: (blocks: readonly Kv[]) => readonly Kv[]
}

/** One run on one engine, by the plainest loop over its functions. */
export class PlainRun {
  /** Per layer, ascending. */
  readonly caches: readonly (readonly Kv[])[]
  readonly #engine: Engine
  readonly #cutting: Cutting
  #position = 0
  #sequence = 0

  constructor(engine: Engine, capacity: number, cutting: Cutting) {
    this.#engine = engine
    this.#cutting = { ...cutting, chunkTokens: Math.min(cutting.chunkTokens, engine.chunkTokens) }
    this.caches = Array.from({ length: engine.shape.layers }, () => {
      const starts = Array.from(
        { length: Math.ceil(capacity / cutting.blockTokens) },
        (_, i) => i * cutting.blockTokens,
      )
      return starts.map((start) => engine.createKv(start, Math.min(cutting.blockTokens, capacity - start)))
    })
  }

  /** Appends tokens of a sequence that is `sequence` tokens long when they are computed; the logits after the last of them. */
  async feed(tokens: readonly number[], sequence = this.#position + tokens.length): Promise<Float32Array> {
    this.#sequence = sequence
    let logits = new Float32Array(0) as Float32Array
    for (let from = 0; from < tokens.length; from += this.#cutting.chunkTokens) {
      const chunk = Int32Array.from(tokens.slice(from, from + this.#cutting.chunkTokens))
      const x = await this.#through(await this.#engine.embed(chunk))
      this.#position += chunk.length
      if (from + chunk.length === tokens.length) logits = await this.#engine.logits(x)
      this.#engine.release(x)
    }
    return logits
  }

  async #through(embedded: Hidden): Promise<Hidden> {
    const isStep = embedded.tokens === 1 && this.#sequence === this.#position + 1
    if (isStep && this.caches.every(({ length }) => length === 1))
      return this.#engine.step(embedded, this.#position, this.caches.flat())
    let x = embedded
    for (let layer = 0; layer < this.caches.length; layer++) x = await this.#layer(layer, x)
    return x
  }

  async #layer(layer: number, x: Hidden): Promise<Hidden> {
    const engine = this.#engine
    const blocks = this.caches[layer]!
    const q = await this.#project(layer, x, blocks)
    const acc = engine.accumulator(q)
    const filled = blocks.filter((block) => block.start < q.start + q.tokens)
    for (const block of this.#cutting.order?.(filled) ?? filled) await engine.attend(layer, q, block, acc)
    engine.release(q)
    return engine.mix(layer, x, acc)
  }

  /** A chunk may reach over several blocks: then it is projected into a KV of its own and copied to where it belongs. */
  async #project(layer: number, x: Hidden, blocks: readonly Kv[]): Promise<Query> {
    const engine = this.#engine
    const start = this.#position
    const end = start + x.tokens
    const whole = blocks.find((block) => block.start <= start && end <= block.start + block.capacity)
    if (whole) return engine.project(layer, x, start, whole, this.#sequence)
    const fresh = engine.createKv(start, x.tokens)
    const q = await engine.project(layer, x, start, fresh, this.#sequence)
    for (const block of blocks) {
      const from = Math.max(start, block.start)
      const count = Math.min(end, block.start + block.capacity) - from
      if (count > 0) await engine.importKv(block, from, count, await engine.exportKv(fresh, from, count, 'f32'))
    }
    engine.release(fresh)
    return q
  }
}
