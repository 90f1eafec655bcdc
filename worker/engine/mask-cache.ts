import type { Floats } from './host-tensors.ts'

/** The maximum of a row that has seen no key. Finite, because -inf - -inf is NaN. */
export const EMPTY_MAX = -1e30
/** Added to the score of a key a query may not see. Below EMPTY_MAX, so that its weight is 0 in an empty row too. */
const HIDDEN_KEY = -2e30

/** A run uses few: those of the diagonal's strips, and as many again where its last chunk is short or a window ends. */
const MAX_MASKS = 32

/**
 * Additive masks: 0 where the key's position is not after the query's, and less than `window` before it. They depend on
 * relative positions only.
 */
export class MaskCache {
  readonly #masks = new Map<string, Floats>()

  /** mask_queries_keys; `offset` is the position of the first key less that of the first query. */
  get(queries: number, keys: number, offset: number, window?: number): Floats {
    const name = `${queries} ${keys} ${offset} ${window}`
    const mask = this.#masks.get(name) ?? visibilityMask(queries, keys, offset, window, HIDDEN_KEY)
    this.#masks.delete(name) // and to the end: the map's order is that of last use
    this.#masks.set(name, mask)
    if (this.#masks.size > MAX_MASKS) this.#masks.delete(this.#masks.keys().next().value ?? name)
    return mask
  }
}

export function visibilityMask(
  queries: number,
  keys: number,
  offset: number,
  window = Number.POSITIVE_INFINITY,
  hidden: number,
): Floats {
  const mask_queries_keys = new Float32Array(queries * keys)
  const key = (relative: number): number => Math.min(keys, Math.max(0, relative))
  for (let i = 0; i < queries; i++) {
    const own = i - offset // where the query's own key would be
    mask_queries_keys.fill(hidden, i * keys + key(own + 1), (i + 1) * keys)
    mask_queries_keys.fill(hidden, i * keys, i * keys + key(own - window + 1))
  }
  return mask_queries_keys
}
