/**
 * Who computes which tokens, so that all workers of a layer finish together.
 *
 * The chain (KV-Runahead, arXiv 2405.05329) needs contiguous spans. Its authors search the split on the hardware for
 * hours; with the cost model of `cost.ts` it is a bisection on the period tau, the time that a layer takes in steady
 * state. A greedy pass goes from the prompt's end to its start: each lane takes as many tokens as it can in tau before
 * where the next begins. That is optimal, because the earlier a span ends, the earlier it can start, and because every
 * link carries all tokens before the span it leads to. Without links and with a common ratio a : b the result is the
 * closed form
 *
 *     P_{i+1} = (sqrt(a^2 + S_i/S_N ((a + b L)^2 - a^2)) - a) / b,   S_i = s_1 + ... + s_i
 *
 * and the bisection needs no such ratio. The ring (arXiv 2310.01889) takes mirrored spans instead ("zigzag").
 */
import type { Span } from '../../shared/plan.ts'
import type { Cost } from '../../shared/protocol/control.ts'
import { spanSeconds } from './cost.ts'

/** A worker, or the decode node, as the partition sees it. What is absent does not limit it. */
export interface Lane {
  readonly cost: Cost
  /** Seconds of each period that it cannot use. Below zero where it has less to do than its cost says. */
  readonly idleSeconds?: number
  /** Seconds that the link to the next lane takes for each token before that lane's start. */
  readonly prefixSeconds?: number
  /** Seconds that the way to the decode node takes for each of its own tokens. */
  readonly handoffSeconds?: number
  /** Seconds for each token before the lane's start on its way into the lane's host. */
  readonly ingressSeconds?: number
  /** The network card that prefix and hand-off leave through together: seconds for each of their tokens. */
  readonly card?: { readonly prefixSeconds: number; readonly handoffSeconds: number } | undefined
  readonly room?: Room | undefined
  /** Tokens that it must and may have. */
  readonly least?: number
  readonly most?: number
}

/** Memory for a run: bytes in all, for each own token, and for each token before them. */
interface Room {
  readonly budget: number
  readonly own: number
  readonly before: number
}

/** The spans of each lane of a chain, in their order: one span, or none where taking part would only slow the rest. */
export function chainSpans(lanes: readonly Lane[], tokens: number): Span[][] | undefined {
  return chainBoundaries(lanes, tokens)
    ?.map(Math.round)
    .map((end, i, ends) => {
      const start = ends[i - 1] ?? 0
      return end > start ? [{ start, end }] : []
    })
}

/** Where each lane's span ends, not yet rounded; the last is `tokens`. Undefined if memory allows no split at all. */
export function chainBoundaries(lanes: readonly Lane[], tokens: number): number[] | undefined {
  const period = chainPeriod(lanes, tokens)
  if (period === undefined) return undefined
  const ends: number[] = []
  let end = tokens
  for (let i = lanes.length - 1; i >= 0; i--) {
    ends.unshift(end)
    end = Math.max(0, spanStart(lanes[i]!, end, period))
  }
  return ends
}

/** Seconds of a layer in steady state, of the best split. */
export const chainPeriod = (lanes: readonly Lane[], tokens: number): number | undefined =>
  leastPeriod(
    (period) => isEnoughForChain(lanes, tokens, period),
    spanSeconds(lanes[0]!.cost, { start: 0, end: tokens }),
    lanes.length,
  )

/** Whether there is a split whose steady state takes no longer than this. */
export function isEnoughForChain(lanes: readonly Lane[], tokens: number, period: number): boolean {
  let end = tokens
  for (let i = lanes.length - 1; i >= 0 && end > 0; i--) end = spanStart(lanes[i]!, end, period)
  return end <= 0
}

/**
 * A step of the greedy pass: the first position of a lane whose span ends at `end`, if it is to be done in a period.
 * `end` itself if it gets no token; infinity if tokens that end there cannot go on within a period.
 */
export function spanStart(lane: Lane, end: number, period: number): number {
  const { cost, card, room, idleSeconds = 0, prefixSeconds = 0, handoffSeconds = 0, ingressSeconds = 0 } = lane
  if (end * prefixSeconds > period) return Number.POSITIVE_INFINITY
  const { o, a, b, c = 0 } = cost
  // Of `end` tokens those that are not the lane's own are taken in: c (end - n) is c end and c less for each of n.
  let tokens = tokensBefore(Math.max(0, a - c), b, end, period - idleSeconds - o - c * end)
  if (handoffSeconds > 0) tokens = Math.min(tokens, period / handoffSeconds)
  if (card !== undefined) {
    const left = period - end * card.prefixSeconds
    if (left < 0) return Number.POSITIVE_INFINITY
    if (card.handoffSeconds > 0) tokens = Math.min(tokens, left / card.handoffSeconds)
  }
  tokens = Math.min(Math.max(tokens, lane.least ?? 0), lane.most ?? tokens, end)
  if (room !== undefined) tokens = Math.min(tokens, tokensInRoom(room, tokens, end))
  const start = tokens > 0 ? end - tokens : end
  return start * ingressSeconds > period ? Number.POSITIVE_INFINITY : start
}

/**
 * How many tokens that end at `end` take `left` seconds: n (a + b (end - n/2)) = left, solved for n. Written as
 * 2t / (x + sqrt(x^2 - 2bt)), which is the usual root without its cancellation for small b and holds for b = 0 too.
 */
function tokensBefore(a: number, b: number, end: number, left: number): number {
  if (left < 0) return 0
  if (a === 0 && b === 0) return Number.POSITIVE_INFINITY
  if (left === 0) return 0
  const slope = a + b * end
  const square = slope * slope - 2 * b * left
  return square < 0 ? Number.POSITIVE_INFINITY : (2 * left) / (slope + Math.sqrt(square))
}

/** Most of these tokens that memory has room for, with those before them. */
function tokensInRoom({ budget, own, before }: Room, tokens: number, end: number): number {
  if (own * tokens + before * (end - tokens) <= budget) return tokens
  return own > before ? Math.max(0, (budget - before * end) / (own - before)) : 0
}

/**
 * The spans of each lane of a ring. A front span of width h and its mirror image at the end of the ring's part see h L
 * keys between them wherever they sit, so widths in proportion to speed balance linear part and attention at once, for
 * unequal workers too (research: unequal zigzag). The innermost two spans touch and are one. `tail` takes the end of
 * the prompt. Undefined if memory allows no split.
 */
export function ringSpans(lanes: readonly Lane[], tokens: number, tail?: Lane): Span[][] | undefined {
  const shared = (seconds: number) => (tail === undefined ? tokens : spanStart(tail, tokens, seconds))
  const width = (lane: Lane, i: number, seconds: number) =>
    ringWidth(lane, i < lanes.length - 1 ? 2 : 1, shared(seconds), seconds)
  const total = (seconds: number) => lanes.reduce((sum, lane, i) => sum + width(lane, i, seconds), 0)
  const guess = spanSeconds(lanes[0]!.cost, { start: 0, end: tokens })
  const period = leastPeriod((seconds) => total(seconds) >= shared(seconds), guess, lanes.length + 1)
  if (period === undefined) return undefined
  const own = Math.round(shared(period))
  return mirroredSpans(
    lanes.map((lane, i) => width(lane, i, period)),
    own,
  )
}

function mirroredSpans(widths: readonly number[], tokens: number): Span[][] {
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
function ringWidth({ cost, room, least = 0 }: Lane, launches: number, tokens: number, seconds: number): number {
  if (tokens === Number.POSITIVE_INFINITY) return 0
  const { o, a, b, c = 0 } = cost
  const left = seconds - launches * o - c * tokens
  const perToken = Math.max(0, a - c) + (b * tokens) / 2
  const inTime = left < 0 ? 0 : perToken === 0 ? tokens : left / perToken
  const computed = Math.min(tokens, Math.max(least, inTime))
  return room === undefined ? computed : tokensInRoom(room, computed, tokens)
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

/**
 * The least period that is enough, to far less than a token's time; undefined if none is.
 * @param alone about what the first lane takes alone, so that `lanes` of them take about a part of it
 */
function leastPeriod(isEnough: (seconds: number) => boolean, alone: number, lanes: number): number | undefined {
  if (isEnough(0)) return 0
  let tooShort = 0
  let enough = Math.max(alone, 1e-12) / lanes
  for (let step = 0; !isEnough(enough); step++) {
    if (step === MOST_DOUBLINGS) return undefined
    tooShort = enough
    enough *= 2
  }
  for (let step = 0; step < 60 && enough - tooShort > PRECISION * enough; step++) {
    const middle = (tooShort + enough) / 2
    if (isEnough(middle)) enough = middle
    else tooShort = middle
  }
  return enough
}

const MOST_DOUBLINGS = 70
/** Lanes may differ in speed by a thousand, and what the others miss falls to the first of them. */
const PRECISION = 1e-11
