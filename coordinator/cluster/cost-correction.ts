/**
 * Moves a fitted cost towards what real runs take: the machine may be busier, hotter or quieter than it was while
 * calibrating. Four parts are corrected apart, because they age apart: attention (b and e) is bound by memory, the linear
 * part (o and the rest of a) by arithmetic, taking in what others made (c) by copying, and moving it (s) by sockets, which
 * only hold arithmetic up where they share its core. A worker that is slow at one must not be taken to be slow at all: of a
 * chain, the last takes in most, and the first nothing.
 */
import type { Cost } from '../../shared/protocol/control.ts'
import { linearSeconds, slowedCost } from '../planning/cost.ts'

/** What a run of one worker took, and how much of each coefficient was in it. */
export interface Measured {
  /** Factors of o, a, b, c and s in the predicted seconds of this work: their products' sum is the prediction. */
  readonly work: Cost
  readonly computeSeconds: number
  /** Of computeSeconds. 0: not known. */
  readonly attendSeconds: number
  /** Of computeSeconds: neither attention nor the linear part. Absent: not known. */
  readonly takeInSeconds?: number | undefined
  /** Of computeSeconds. Absent: not known. */
  readonly movingSeconds?: number | undefined
  /** In which sockets held nothing up. */
  readonly waitSeconds?: number
}

/** How far the first run moves a cost at most, and how far any later one: predictions shall settle. */
const FIRST_GAIN = 0.7
const LEAST_GAIN = 0.3
/** The first run of a process touches memory and compiles code that later ones find ready: it tells half as much. */
const COLD = 0.5
/** The most that a single run is believed to be off by. */
const MOST_OFF = 4
/** A part this long moves its coefficients half as far as an endless one would: short times are mostly chance. */
const HALF_TELLING_SECONDS = 0.05
/** Of moving, which is told by the processor's accounts and not by the clock. */
const HALF_TELLING_MOVING_SECONDS = 0.02

/**
 * Workers of one host that compute at once share its memory and caches: measured 1.06 to 1.2 times as long on two cores.
 * Until a run has told.
 */
export const BESIDE_OTHERS = 1.15

export const besideOthers = (cost: Cost): Cost => slowedCost(cost, BESIDE_OTHERS)

/** The lesser of each coefficient of arithmetic. */
export const leastOf = (cost: Cost, other: Cost): Cost => ({
  ...cost,
  o: Math.min(cost.o, other.o),
  a: Math.min(cost.a, other.a),
  b: Math.min(cost.b, other.b),
  ...(cost.e !== undefined && { e: Math.min(cost.e, other.e ?? cost.e) }),
})

/** The cost after one more run, when `seen` runs have corrected it before. `cold`: it was the worker's very first. */
export function correctedCost(cost: Cost, measured: Measured, seen: number, cold = false): Cost {
  const { o, b, e, c, s } = cost
  const { work } = measured
  const takesIn = work.c ?? 0
  const toldApart = takesIn > 0 && measured.takeInSeconds !== undefined
  const linearOfToken = linearSeconds(cost)
  const linear = o * work.o + linearOfToken * work.a + (toldApart ? 0 : (c ?? 0) * takesIn)
  const attention = b * work.b + (e ?? 0) * work.a
  if (!(measured.computeSeconds > 0) || !(linear + attention > 0)) return cost
  const gain = Math.max(LEAST_GAIN, FIRST_GAIN / Math.sqrt(1 + seen)) * (cold ? COLD : 1)
  // What sockets took is not arithmetic's fault. Where nobody has told, they took what was predicted.
  const predicted = (s ?? 0) * (work.s ?? 0)
  const rest = linear + attention + (toldApart ? (c ?? 0) * takesIn : 0)
  const moving = measured.movingSeconds ?? (measured.computeSeconds * predicted) / (predicted + rest)
  const arithmetic = 1 - Math.min(1, moving / measured.computeSeconds)
  const takeInSeconds = toldApart ? measured.takeInSeconds! * arithmetic : 0
  const computeSeconds = measured.computeSeconds * arithmetic - takeInSeconds
  const attendSeconds = measured.attendSeconds * arithmetic
  // Not told apart, both parts are off alike.
  const attended =
    attendSeconds > 0 ? Math.min(attendSeconds, computeSeconds) : (computeSeconds * attention) / (linear + attention)
  const scale = linear > 0 ? scaleTowards(linear, computeSeconds - attended, gain) : 1
  const attentionScale = attention > 0 ? scaleTowards(attention, attended, gain) : 1
  const attentionOfToken = (e ?? 0) * attentionScale
  return {
    o: o * scale,
    a: linearOfToken * scale + attentionOfToken,
    b: attention > 0 ? b * attentionScale : partTowards(b, attended, work.b, gain),
    ...(e !== undefined && { e: attentionOfToken }),
    ...(toldApart ? { c: partTowards(c ?? 0, takeInSeconds, takesIn, gain) } : c !== undefined && { c: c * scale }),
    ...movingTowards(s, measured, gain),
  }
}

/** What is moved while the run waits costs as much, though it holds nothing up: the next run may not wait. */
function movingTowards(s: number | undefined, measured: Measured, gain: number): { s?: number } {
  const { computeSeconds, movingSeconds, waitSeconds = 0, work } = measured
  if (movingSeconds === undefined || !((work.s ?? 0) > 0)) return s === undefined ? {} : { s }
  const whole = (movingSeconds * (computeSeconds + waitSeconds)) / computeSeconds
  const old = s ?? 0
  const told = Math.max(whole, old * work.s!)
  return { s: old + gain * (told / (told + HALF_TELLING_MOVING_SECONDS)) * (whole / work.s! - old) }
}

/** A coefficient that is a part of its own. A fit that found no cost in it has nothing to scale. */
function partTowards(old: number, measured: number, work: number, gain: number): number {
  if (old * work > 0) return old * scaleTowards(old * work, measured, gain)
  return work > 0 ? (gain * telling(measured) * measured) / work : old
}

function scaleTowards(predicted: number, measured: number, gain: number): number {
  const ratio = Math.min(Math.max(measured / predicted, 1 / MOST_OFF), MOST_OFF)
  return 1 + gain * telling(Math.max(predicted, measured)) * (ratio - 1)
}

/** 0 to 1. */
const telling = (seconds: number): number => seconds / (seconds + HALF_TELLING_SECONDS)
