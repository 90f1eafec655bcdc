/**
 * Who computes which tokens, so that all workers of a layer finish together.
 *
 * The chain (KV-Runahead, arXiv 2405.05329) needs contiguous spans. Its authors search the split on the hardware for
 * hours; with the cost model of `cost.ts` it is a bisection on the period tau, the time that a layer takes in steady
 * state: a greedy pass pushes every boundary as far as tau allows, which is optimal because what worker i+1 can reach
 * grows with where it starts. With a common ratio a : b the result is the closed form
 *
 *     P_{i+1} = (sqrt(a^2 + S_i/S_N ((a + b L)^2 - a^2)) - a) / b,   S_i = s_1 + ... + s_i
 *
 * and the bisection needs no such ratio. The ring (arXiv 2310.01889) takes mirrored spans instead ("zigzag").
 */
import type { Span } from '../../shared/plan.ts'
import type { Cost } from '../../shared/protocol/control.ts'
import { spanSeconds } from './cost.ts'

/** A worker as the partition sees it. */
export interface Lane {
  readonly cost: Cost
  /**
   * Tokens of prefix that the way out of this worker carries per second of the period: the least of this and all later
   * links of the chain. Absent: no limit. The last worker of a chain has no way out.
   */
  readonly egressTokensPerSecond?: number
}

/** The spans of each lane of a chain, in their order: one span, or none where taking part would only slow the rest. */
export function chainSpans(lanes: readonly Lane[], tokens: number): Span[][] {
  const ends = chainBoundaries(lanes, tokens).map(Math.round)
  return ends.map((end, i) => {
    const start = ends[i - 1] ?? 0
    return end > start ? [{ start, end }] : []
  })
}

/** Where each lane's span ends, not yet rounded; the last is `tokens`. */
export function chainBoundaries(lanes: readonly Lane[], tokens: number): number[] {
  const tail = { cost: lanes.at(-1)!.cost }
  const chain = lanes.with(-1, tail)
  const boundary = (lane: Lane, start: number, seconds: number) => Math.min(reachOnLink(lane, start, seconds), tokens)
  const furthest = (seconds: number) => chain.reduce((start, lane) => boundary(lane, start, seconds), 0)
  const slowEnough = spanSeconds(tail.cost, { start: 0, end: tokens })
  const period = leastPeriod((seconds) => furthest(seconds) >= tokens, slowEnough)

  let start = 0
  const ends = chain.map((lane) => {
    start = boundary(lane, start, period)
    return start
  })
  return ends.with(-1, tokens)
}

/** A step of the greedy pass: as far as the worker, and the link behind it, come within the period. */
function reachOnLink({ cost, egressTokensPerSecond }: Lane, start: number, seconds: number): number {
  const computed = reach(cost, start, seconds)
  if (egressTokensPerSecond === undefined) return computed
  return Math.max(start, Math.min(computed, seconds * egressTokensPerSecond))
}

/**
 * The position that a worker comes to from `start`: o + a n + b n (start + n/2) = seconds, solved for n. Written as
 * 2t / (x + sqrt(x^2 + 2bt)), which is the usual root without its cancellation for small b and holds for b = 0 too.
 */
function reach({ o, a, b }: Cost, start: number, seconds: number): number {
  const left = seconds - o
  if (left < 0) return start
  if (a === 0 && b === 0) return Number.POSITIVE_INFINITY
  if (left === 0) return start
  const slope = a + b * start
  return start + (2 * left) / (slope + Math.sqrt(slope * slope + 2 * b * left))
}

/**
 * The spans of each lane of a ring. A front span of width h and its mirror image at the prompt's end see h L keys
 * between them wherever they sit, so widths in proportion to speed balance linear part and attention at once, for
 * unequal workers too (research: unequal zigzag). The innermost two spans touch and are one.
 */
export function ringSpans(lanes: readonly Lane[], tokens: number): Span[][] {
  const width = ({ cost }: Lane, i: number, seconds: number) =>
    ringWidth(cost, i < lanes.length - 1 ? 2 : 1, tokens, seconds)
  const total = (seconds: number) => lanes.reduce((sum, lane, i) => sum + width(lane, i, seconds), 0)
  const slowEnough = spanSeconds(lanes.at(-1)!.cost, { start: 0, end: tokens })
  const period = leastPeriod((seconds) => total(seconds) >= tokens, slowEnough)
  const widths = lanes.map((lane, i) => width(lane, i, period))
  const innermost = widths.findLastIndex((own) => own > 0)

  let start = 0
  let covered = 0
  return widths.map((own, i) => {
    covered += own
    const end = i < innermost ? Math.min(Math.round(covered / 2), Math.floor(tokens / 2)) : tokens
    const spans = mirrored(start, end, tokens)
    start = end
    return spans
  })
}

/** Tokens, front and back together, that a worker's `launches` spans hold if it is to finish within the period. */
function ringWidth({ o, a, b }: Cost, launches: number, tokens: number, seconds: number): number {
  const left = seconds - launches * o
  if (left < 0) return 0
  const perToken = a + (b * tokens) / 2
  return perToken === 0 ? tokens : Math.min(tokens, left / perToken)
}

/** `[start, end)` and its mirror image; one span where the two meet, none where there is nothing left. */
function mirrored(start: number, end: number, tokens: number): Span[] {
  if (end <= start || 2 * start >= tokens) return []
  if (2 * end >= tokens) return [{ start, end: tokens - start }]
  return [
    { start, end },
    { start: tokens - end, end: tokens - start },
  ]
}

/** The least period that is enough, given one that is: by bisection, to far less than a token's time. */
function leastPeriod(isEnough: (seconds: number) => boolean, slowEnough: number): number {
  let tooShort = 0
  let enough = slowEnough
  for (let step = 0; step < 60 && enough - tooShort > 1e-13 * enough; step++) {
    const middle = (tooShort + enough) / 2
    if (isEnough(middle)) enough = middle
    else tooShort = middle
  }
  return enough
}
