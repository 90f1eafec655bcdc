/**
 * Which workers a plan may take. Without measured links the order of a chain hardly matters (any order is balanced in
 * the same period when a : b is common), so workers always stand fastest first and only the subset is searched.
 */
import type { Cost } from '../../shared/protocol/control.ts'
import { spanSeconds } from './cost.ts'

/** Up to here all subsets are tried (127 of them); beyond, adding the next fastest is the only thing tried. */
const MAX_EXHAUSTIVE = 7

/** In the order of how fast each would do the whole prompt alone; by name among equals, so that plans are repeatable. */
export function fastestFirst<T extends { readonly id: string; readonly cost: Cost }>(
  workers: readonly T[],
  tokens: number,
): T[] {
  const alone = new Map(workers.map((worker) => [worker, spanSeconds(worker.cost, { start: 0, end: tokens })]))
  return workers.toSorted((x, y) => alone.get(x)! - alone.get(y)! || (x.id < y.id ? -1 : 1))
}

/** The subsets of `least` to `most` of these workers that are worth a prediction, in the workers' order. */
export function subsetsToTry<T>(workers: readonly T[], least: number, most: number): T[][] {
  const subsets = workers.length <= MAX_EXHAUSTIVE ? allSubsets(workers) : singlesAndPrefixes(workers)
  return subsets.filter(({ length }) => length >= least && length <= most)
}

/** One for each bit pattern. */
const allSubsets = <T>(workers: readonly T[]): T[][] =>
  Array.from({ length: 2 ** workers.length }, (_, bits) => workers.filter((_, i) => (bits >> i) & 1))

const singlesAndPrefixes = <T>(workers: readonly T[]): T[][] => [
  ...workers.map((worker) => [worker]),
  ...workers.slice(1).map((_, i) => workers.slice(0, i + 2)),
]
