/** Numbers of repeated measurements. Pure. A shared host makes outliers, so the middle is the median everywhere. */

export interface Spread {
  readonly median: number
  readonly min: number
  readonly max: number
  readonly count: number
}

export function median(values: readonly number[]): number {
  if (values.length === 0) return Number.NaN
  const sorted = values.toSorted((x, y) => x - y)
  const middle = sorted.length >> 1
  return sorted.length % 2 === 1 ? sorted[middle]! : (sorted[middle - 1]! + sorted[middle]!) / 2
}

export const spreadOf = (values: readonly number[]): Spread => ({
  median: median(values),
  min: Math.min(...values),
  max: Math.max(...values),
  count: values.length,
})

/**
 * How many times faster `candidate` is than `base`, round by round. Both of a round ran one after the other, so what
 * slowed the machine for minutes slowed both; the quotient of two medians would not have that.
 */
export function speedUps(base: readonly number[], candidate: readonly number[]): number[] {
  if (base.length !== candidate.length)
    throw new Error(`${base.length} rounds of one, ${candidate.length} of the other`)
  return base.map((seconds, round) => seconds / candidate[round]!)
}

/** The order of a round: each begins one further on, so that no candidate always follows the same other. */
export const rotated = <T>(candidates: readonly T[], round: number): T[] =>
  candidates.map((_, i) => candidates[(i + round) % candidates.length]!)

/** Of `settledGrowth`: fewer, and the two medians would share values. */
export const LEAST_RUNS = 8

/**
 * What is left of growth once a process has warmed up: the median of the last three values over that of the third to
 * the fifth. Early values are not used because the first runs fill pools that are meant to stay.
 */
export function settledGrowth(values: readonly number[]): { from: number; to: number; growth: number } {
  if (values.length < LEAST_RUNS) throw new Error(`growth needs ${LEAST_RUNS} values or more, not ${values.length}`)
  const from = median(values.slice(2, 5))
  const to = median(values.slice(-3))
  return { from, to, growth: to - from }
}

export const sum = (values: readonly number[]): number => values.reduce((total, value) => total + value, 0)

/** How many pairs stand the wrong way round: 0 when the values ascend. */
export const inversions = (values: readonly number[]): number =>
  sum(values.map((value, i) => values.slice(i + 1).filter((later) => later < value).length))
