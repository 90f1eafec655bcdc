import type { Floats } from '../host-tensors.ts'
import { HIDDEN_KEY } from './graphs.ts'

/** A run uses very few: the diagonal, and one more where its last chunk is short. */
const MAX_MASKS = 16

/** Additive causal masks: 0 where the key's position is not after the query's. They depend on relative positions only. */
export class MaskCache {
  readonly #masks = new Map<string, Floats>()

  /** mask_queries_keys; `offset` is the position of the first key less that of the first query. */
  get(queries: number, keys: number, offset: number): Floats {
    const name = `${queries} ${keys} ${offset}`
    const mask = this.#masks.get(name) ?? causalMask(queries, keys, offset)
    this.#masks.delete(name) // and to the end: the map's order is that of last use
    this.#masks.set(name, mask)
    if (this.#masks.size > MAX_MASKS) this.#masks.delete(this.#masks.keys().next().value ?? name)
    return mask
  }
}

function causalMask(queries: number, keys: number, offset: number): Floats {
  const mask_queries_keys = new Float32Array(queries * keys)
  for (let i = 0; i < queries; i++) {
    const firstHidden = Math.min(keys, Math.max(0, i + 1 - offset))
    mask_queries_keys.fill(HIDDEN_KEY, i * keys + firstHidden, (i + 1) * keys)
  }
  return mask_queries_keys
}
