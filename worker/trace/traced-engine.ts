import type { Engine } from '../engine/engine.ts'
import type { TraceRecorder } from './recorder.ts'

/**
 * The same engine with the time of its arithmetic recorded: what one run computes with. Copying K and V out for others
 * belongs to making them, so to `project` of the layer that was projected last.
 */
export const tracedEngine = (engine: Engine, trace: TraceRecorder): Engine => {
  let projected = 0
  return {
    name: engine.name,
    shape: engine.shape,
    chunkTokens: engine.chunkTokens,
    embed: (tokens) => trace.timed('project', 0, () => engine.embed(tokens)),
    project: (layer, x, start, kv, sequence) => {
      projected = layer
      return trace.timed('project', layer, () => engine.project(layer, x, start, kv, sequence))
    },
    attend: (layer, q, kv, acc, of) => trace.timed('attend', layer, () => engine.attend(layer, q, kv, acc, of)),
    mix: (layer, x, acc) => trace.timed('mix', layer, () => engine.mix(layer, x, acc)),
    // an answer's tokens have spans of their own
    step: (x, position, kv_layers, between) => engine.step(x, position, kv_layers, between),
    logits: (x) => trace.timed('mix', engine.shape.layers - 1, () => engine.logits(x)),
    lastRow: (x) => engine.lastRow(x),
    accumulator: (q) => engine.accumulator(q),
    createKv: (start, capacity) => engine.createKv(start, capacity),
    exportKv: (kv, start, count, wire) =>
      trace.timed('project', projected, () => engine.exportKv(kv, start, count, wire)),
    importKv: (kv, start, count, encoded) => engine.importKv(kv, start, count, encoded),
    release: (...tensors) => engine.release(...tensors),
    trim: () => engine.trim(),
    close: () => engine.close(),
  }
}
