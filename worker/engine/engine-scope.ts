import type { Accumulator, Engine, Hidden, Kv, Query } from './engine.ts'

type Tensor = Hidden | Query | Accumulator | Kv

/**
 * The same engine for one run, which may end anywhere: what it has not released by then, `releaseRest` does. Memory of a
 * GPU, or of WebAssembly, has no other way back.
 */
export interface EngineScope {
  readonly engine: Engine
  /** These are the run's now, as if it had made them. */
  hold(...tensors: readonly Tensor[]): void
  /** These outlive the run. */
  letGo(...tensors: readonly Tensor[]): void
  /** No call of the run may be running. */
  releaseRest(): void
}

export function engineScope(engine: Engine): EngineScope {
  const live = new Set<Tensor>()
  const kept = <T extends Tensor>(tensor: T): T => {
    live.add(tensor)
    return tensor
  }
  const scoped: Engine = {
    name: engine.name,
    shape: engine.shape,
    chunkTokens: engine.chunkTokens,
    embed: async (tokens) => kept(await engine.embed(tokens)),
    project: async (layer, x, start, kv, sequence) => kept(await engine.project(layer, x, start, kv, sequence)),
    attend: (layer, q, kv, acc, of) => engine.attend(layer, q, kv, acc, of),
    mix: async (layer, x, acc) => {
      live.delete(x)
      live.delete(acc)
      return kept(await engine.mix(layer, x, acc))
    },
    step: async (x, position, kv_layers, between) => {
      live.delete(x)
      return kept(await engine.step(x, position, kv_layers, between))
    },
    logits: (x) => engine.logits(x),
    lastRow: (x) => kept(engine.lastRow(x)),
    accumulator: (q) => kept(engine.accumulator(q)),
    createKv: (start, capacity) => kept(engine.createKv(start, capacity)),
    exportKv: (kv, start, count, wire) => engine.exportKv(kv, start, count, wire),
    importKv: (kv, start, count, encoded) => engine.importKv(kv, start, count, encoded),
    release: (...tensors) => {
      for (const tensor of tensors) live.delete(tensor)
      engine.release(...tensors)
    },
    trim: () => engine.trim(),
    close: () => engine.close(),
  }
  return {
    engine: scoped,
    hold: (...tensors) => {
      for (const tensor of tensors) live.add(tensor)
    },
    letGo: (...tensors) => {
      for (const tensor of tensors) live.delete(tensor)
    },
    releaseRest: () => {
      engine.release(...live)
      live.clear()
    },
  }
}
