/**
 * Moves a fitted cost towards what real runs take: the machine may be busier, hotter or quieter than it was while
 * calibrating. The linear part (o and a) and attention (b) are corrected apart, because they age apart: attention is bound
 * by memory, the rest by arithmetic.
 */
import type { Cost } from '../../shared/protocol/control.ts'

/** What a run of one worker took, and how much of each coefficient was in it. */
export interface Measured {
  /** Factors of o, a and b in the predicted seconds of this work: their products' sum is the prediction. */
  readonly work: Cost
  readonly computeSeconds: number
  /** Of computeSeconds. 0: not known. */
  readonly attendSeconds: number
}

/** How far the first run moves a cost at most, and how far any later one: predictions shall settle. */
const FIRST_GAIN = 0.7
const LEAST_GAIN = 0.3
/** The most that a single run is believed to be off by. */
const MOST_OFF = 4
/** A part this long moves its coefficients half as far as an endless one would: short times are mostly chance. */
const HALF_TELLING_SECONDS = 0.25

/** The cost after one more run, when `seen` runs have corrected it before. */
export function correctedCost({ o, a, b, c }: Cost, measured: Measured, seen: number): Cost {
  const { work, computeSeconds, attendSeconds } = measured
  const linear = o * work.o + a * work.a + (c ?? 0) * (work.c ?? 0)
  const attention = b * work.b
  if (!(computeSeconds > 0) || !(linear + attention > 0)) return { o, a, b, ...(c !== undefined && { c }) }
  // Not told apart, both parts are off alike.
  const attended =
    attendSeconds > 0 ? Math.min(attendSeconds, computeSeconds) : (computeSeconds * attention) / (linear + attention)
  const gain = Math.max(LEAST_GAIN, FIRST_GAIN / Math.sqrt(1 + seen))
  const scale = linear > 0 ? scaleTowards(linear, computeSeconds - attended, gain) : 1
  const corrected = { o: o * scale, a: a * scale, b: attentionTowards(b, attention, attended, work.b, gain) }
  return c === undefined ? corrected : { ...corrected, c: c * scale }
}

function attentionTowards(b: number, predicted: number, measured: number, work: number, gain: number): number {
  if (predicted > 0) return b * scaleTowards(predicted, measured, gain)
  // A fit that found no cost in attention has nothing to scale.
  return work > 0 ? (gain * telling(measured) * measured) / work : b
}

function scaleTowards(predicted: number, measured: number, gain: number): number {
  const ratio = Math.min(Math.max(measured / predicted, 1 / MOST_OFF), MOST_OFF)
  return 1 + gain * telling(Math.max(predicted, measured)) * (ratio - 1)
}

/** 0 to 1. */
const telling = (seconds: number): number => seconds / (seconds + HALF_TELLING_SECONDS)
