/** Keys `[start, start + count)`, seen by every query of the chunk, or by some (`masked`). */
export interface KeyRange {
  readonly start: number
  readonly count: number
  readonly masked: boolean
}

interface Positions {
  readonly start: number
  readonly tokens: number
}

/**
 * What of the keys at `[kvStart, kvEnd)` the queries of a chunk may see, causally, within `window` and by original positions,
 * cut into ranges of at most `maxKeys`. Keys that no query may see are in none of them.
 */
export function keyRanges(
  query: Positions,
  kvStart: number,
  kvEnd: number,
  maxKeys: number,
  window = Number.POSITIVE_INFINITY,
): KeyRange[] {
  const end = Math.min(kvEnd, query.start + query.tokens)
  const start = Math.max(kvStart, query.start - window + 1)
  // The key at the first query's own position is seen by all too, but one key alone is not worth a call.
  const openEnd = Math.min(end, query.tokens === 1 ? query.start + 1 : query.start)
  const openStart = Math.max(start, Math.min(openEnd, query.start + query.tokens - window))
  return [
    ...cut(start, Math.min(openStart, end), maxKeys, true),
    ...cut(openStart, openEnd, maxKeys, false),
    ...cut(Math.max(openStart, openEnd), end, maxKeys, true),
  ]
}

function cut(start: number, end: number, most: number, masked: boolean): KeyRange[] {
  const ranges = []
  for (let at = start; at < end; at += most) ranges.push({ start: at, count: Math.min(most, end - at), masked })
  return ranges
}
