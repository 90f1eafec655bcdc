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
  /** The network card that prefix and hand-off leave through together: seconds for each token, no more than the links'. */
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
    // The period is enough for the links, but for what rounding makes of it.
    end = Math.max(0, reach(lanes[i]!, end, period))
  }
  return ends
}

/** Seconds of a layer in steady state, of the best split. */
export const chainPeriod = (lanes: readonly Lane[], tokens: number): number | undefined =>
  leastPeriod(
    (period) => missingOfChain(lanes, tokens, period),
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
 * Whether these lanes can compute so much in a period in any order, were all else free. Spans that tile the prompt have
 * sum n_i (P_i + n_i/2) = L^2/2, so with r the least of all b_i/a_i, those of a period tau fill L + r L^2/2 with no more
 * than sum (tau - o_i) / a_i.
 */
export function isEnoughArithmetic(lanes: readonly Lane[], tokens: number, period: number): boolean {
  const ratio = lanes.reduce(
    (least, { cost: { a, b } }) => Math.min(least, a > 0 ? b / a : 0),
    Number.POSITIVE_INFINITY,
  )
  const tokenMost = 1 + ratio * tokens
  const done = lanes.reduce(
    (sum, { cost: { o, a }, most = tokens }) => sum + Math.min(most * tokenMost, Math.max(0, period - o) / a),
    0,
  )
  return !(done * (1 + MARGIN) < tokens + (ratio * tokens * tokens) / 2)
}

/** For what rounding does. */
const MARGIN = 1e-9

/**
 * Tokens that a period is too short for: those left over, or that a link cannot carry on, whichever are more. Below zero
 * so many more could be done, so that it goes through zero without a jump where the period is just enough.
 */
function missingOfChain(lanes: readonly Lane[], tokens: number, period: number): number {
  let end = tokens
  let tooMany = Number.NEGATIVE_INFINITY
  for (let i = lanes.length - 1; i >= 0 && end > 0; i--) {
    const { prefixSeconds, ingressSeconds } = lanes[i]!
    tooMany = Math.max(tooMany, beyond(end, prefixSeconds, period))
    end = reach(lanes[i]!, end, period)
    tooMany = Math.max(tooMany, beyond(end, ingressSeconds, period))
  }
  return Math.max(tooMany, end)
}

/** Of these tokens those that a link cannot carry within a period. */
const beyond = (tokens: number, seconds = 0, period: number): number =>
  seconds > 0 ? tokens - period / seconds : Number.NEGATIVE_INFINITY

/**
 * A step of the greedy pass: the first position of a lane whose span ends at `end`, if it is to be done in a period.
 * `end` itself if it gets no token; infinity if tokens that end there cannot go on within a period.
 */
export function spanStart(lane: Lane, end: number, period: number): number {
  const { prefixSeconds = 0, ingressSeconds = 0 } = lane
  if (end * prefixSeconds > period) return Number.POSITIVE_INFINITY
  const start = reach(lane, end, period)
  return start * ingressSeconds > period ? Number.POSITIVE_INFINITY : Math.max(0, start)
}

/** The same, whatever can go on; below 0 by what the lane could do beyond. */
function reach(
  { cost, card, room, idleSeconds = 0, handoffSeconds = 0, least = 0, most }: Lane,
  end: number,
  period: number,
): number {
  const { o, a, b, c = 0 } = cost
  // Of `end` tokens those that are not the lane's own are taken in: c (end - n) is c end and c less for each of n.
  let tokens = tokensBefore(Math.max(0, a - c), b, end, period - idleSeconds - o - c * end)
  if (handoffSeconds > 0) tokens = Math.min(tokens, period / handoffSeconds)
  if (card !== undefined && card.handoffSeconds > 0)
    tokens = Math.min(tokens, (period - end * card.prefixSeconds) / card.handoffSeconds)
  tokens = Math.min(Math.max(tokens, least), most ?? tokens)
  if (room !== undefined) tokens = Math.min(tokens, tokensInRoom(room, tokens, end))
  return tokens > 0 ? end - tokens : end
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
  return (2 * left) / (slope + Math.sqrt(Math.max(0, slope * slope - 2 * b * left)))
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
  const shared = (period: number) => (tail === undefined ? tokens : Math.max(0, reach(tail, tokens, period)))
  const widths = (own: number, period: number) =>
    lanes.map((lane, i) => ringWidth(lane, i < lanes.length - 1 ? 2 : 1, own, period))
  const missing = (period: number) => {
    const own = shared(period)
    const done = widths(own, period).reduce((sum, width) => sum + width, 0)
    return Math.max(own - done, beyond(own, tail?.ingressSeconds, period))
  }
  const guess = spanSeconds(lanes[0]!.cost, { start: 0, end: tokens })
  const period = leastPeriod(missing, guess, lanes.length + 1)
  if (period === undefined) return undefined
  const own = shared(period)
  return mirroredSpans(widths(own, period), Math.round(own))
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
 * The least period that is enough, to far less than a token's time; undefined if none is. Bisected, so that workers that
 * are alike get the very same; most of its steps are answered by what `closeIn` has found out before.
 * @param missing what it lacks at a period, falling; at or below zero the period is enough
 * @param alone about what the first lane takes alone, so that `lanes` of them take about a part of it
 */
function leastPeriod(missing: (seconds: number) => number, alone: number, lanes: number): number | undefined {
  let tooShort: End = { seconds: 0, missing: missing(0) }
  if (tooShort.missing <= 0) return 0
  let enough = endAt(missing, Math.max(alone, 1e-12) / lanes)
  for (let step = 0; !(enough.missing <= 0); step++) {
    if (step === MOST_DOUBLINGS) return undefined
    tooShort = enough
    enough = endAt(missing, 2 * enough.seconds)
  }
  let [below, above] = closeIn(missing, tooShort, enough)
  let [least, most] = [tooShort.seconds, enough.seconds]
  for (let step = 0; step < 60 && most - least > PRECISION * most; step++) {
    const middle = (least + most) / 2
    if (middle > below && middle < above) {
      if (missing(middle) <= 0) above = middle
      else below = middle
    }
    if (middle >= above) most = middle
    else least = middle
  }
  return most
}

interface End {
  readonly seconds: number
  readonly missing: number
}

const endAt = (missing: (seconds: number) => number, seconds: number): End => ({ seconds, missing: missing(seconds) })

/**
 * Two periods next to each other, one too short and one enough. The line through the last two points says where the next
 * is, at least a step of the precision inside, so that both ends close in; where it points outside, the middle is next.
 */
function closeIn(missing: (seconds: number) => number, tooShort: End, enough: End): [below: number, above: number] {
  let [below, above] = [tooShort.seconds, enough.seconds]
  let [before, last] = [tooShort, enough]
  for (let step = 0; step < MOST_STEPS && above - below > PRECISION * above; step++) {
    const crossing = last.seconds - last.missing * ((last.seconds - before.seconds) / (last.missing - before.missing))
    const least = (PRECISION / 2) * above
    const inside = crossing > below - least && crossing < above + least
    const next = inside ? Math.min(Math.max(crossing, below + least), above - least) : (below + above) / 2
    before = last
    last = endAt(missing, next)
    if (last.missing <= 0) above = next
    else below = next
  }
  return [below, above]
}

const MOST_DOUBLINGS = 70
const MOST_STEPS = 20
/** Lanes may differ in speed by a thousand, and what the others miss falls to the first of them. */
const PRECISION = 1e-11
