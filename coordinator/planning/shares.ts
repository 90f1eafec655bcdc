/** Spans in proportion to what a client says, whatever that costs: for experiments, and for who knows more than the planner. */
import type { Span, Strategy } from '../../shared/plan.ts'

/**
 * The spans of each worker in order: contiguous, or for a ring mirrored (`partition.ts`). Shares are above 0. Where a
 * prompt has too few tokens for a share, that worker has no span.
 */
export function sharedSpans(strategy: Strategy, shares: readonly number[], tokens: number): Span[][] {
  const total = shares.reduce((sum, share) => sum + share, 0)
  const width = strategy === 'ring' ? tokens / 2 : tokens
  let sum = 0
  const ends = shares.map((share) => {
    sum += share
    return Math.round((sum / total) * width)
  })
  const pieces = ends.map((end, i) => ({ start: ends[i - 1] ?? 0, end }))
  if (strategy !== 'ring') return pieces.map((piece) => [piece].filter(isSpan))
  const innermost = pieces.findLastIndex(isSpan)
  return pieces.map(({ start, end }, i) => {
    if (i === innermost) return [{ start, end: tokens - start }]
    return [
      { start, end },
      { start: tokens - end, end: tokens - start },
    ].filter(isSpan)
  })
}

const isSpan = ({ start, end }: Span): boolean => end > start
