import type { Engine, Hidden, Kv } from './engine.ts'

/** `Engine.step` of an engine that has no faster way. */
export async function stepByParts(engine: Engine, layer: number, x: Hidden, position: number, kv: Kv): Promise<Hidden> {
  const q = await engine.project(layer, x, position, kv)
  const acc = engine.accumulator(q)
  try {
    await engine.attend(layer, q, kv, acc)
  } catch (thrown) {
    engine.release(acc)
    throw thrown
  } finally {
    engine.release(q)
  }
  return engine.mix(layer, x, acc)
}
