import type { Asked } from './ask.ts'
import { sum } from './statistics.ts'

/** What no plan can beat, from what was measured. Pure. */

/** Work over speed: `soloSeconds` are one worker's, speeds are relative to that worker. */
export const computeBound = (soloSeconds: number, speeds: readonly number[]): number => soloSeconds / sum(speeds)

/**
 * The time that the busiest host's link needs for the bytes of KV that this run sent or received there. Every link
 * carries `bytesPerSecond` in each direction.
 */
export function linkBound({ prefill }: Pick<Asked, 'prefill'>, bytesPerSecond: number): number {
  const loads = new Map<string, number>()
  const add = (end: string, bytes: number): void => void loads.set(end, (loads.get(end) ?? 0) + bytes)
  for (const { from, to, bytes } of prefill.links ?? []) {
    add(`from ${from}`, bytes)
    add(`to ${to}`, bytes)
  }
  return Math.max(0, ...loads.values()) / bytesPerSecond
}

/** Seconds of arithmetic of the worker that had the most. */
export const longestCompute = ({ prefill }: Pick<Asked, 'prefill'>): number =>
  Math.max(0, ...prefill.workers.map(({ compute_seconds }) => compute_seconds ?? 0))
