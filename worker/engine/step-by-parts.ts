import type { Accumulator, Engine, Hidden, Kv, Query } from './engine.ts'

/** `Engine.step` of an engine that has no faster way. */
export async function stepByParts(
  engine: Engine,
  x: Hidden,
  position: number,
  kv_layers: readonly Kv[],
  between?: () => Promise<void>,
): Promise<Hidden> {
  let token = x
  for (const [layer, kv] of kv_layers.entries()) {
    if (layer > 0) await orRelease(engine, [token], async () => between?.())
    token = await stepLayer(engine, layer, token, position, kv)
  }
  return token
}

/** One token through one layer. Consumes `x`. */
export async function stepLayer(engine: Engine, layer: number, x: Hidden, position: number, kv: Kv): Promise<Hidden> {
  const q = await orRelease(engine, [x], () => engine.project(layer, x, position, kv))
  const acc = engine.accumulator(q)
  await orRelease(engine, [x, q, acc], () => engine.attend(layer, q, kv, acc))
  engine.release(q)
  return engine.mix(layer, x, acc)
}

/** Where that fails, nobody needs these any more. */
export async function orRelease<T>(
  engine: Engine,
  tensors: readonly (Hidden | Query | Accumulator)[],
  attempt: () => Promise<T>,
): Promise<T> {
  try {
    return await attempt()
  } catch (thrown) {
    engine.release(...tensors)
    throw thrown
  }
}
