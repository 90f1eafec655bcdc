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
 * What of the keys at `[kvStart, kvEnd)` the queries of a chunk may see, causally and by original positions, cut into
 * ranges of at most `maxKeys`. Keys that no query may see are in none of them.
 */
export function keyRanges(query: Positions, kvStart: number, kvEnd: number, maxKeys: number): KeyRange[] {
  // The key at the first query's own position is seen by all too, but one key alone is not worth a call.
  const openEnd = Math.min(kvEnd, query.tokens === 1 ? query.start + 1 : query.start)
  const end = Math.min(kvEnd, query.start + query.tokens)
  return [
    ...cut(kvStart, openEnd, maxKeys).map((range) => ({ ...range, masked: false })),
    ...cut(Math.max(kvStart, openEnd), end, maxKeys).map((range) => ({ ...range, masked: true })),
  ]
}

function cut(start: number, end: number, most: number): { start: number; count: number }[] {
  const ranges = []
  for (let at = start; at < end; at += most) ranges.push({ start: at, count: Math.min(most, end - at) })
  return ranges
}
