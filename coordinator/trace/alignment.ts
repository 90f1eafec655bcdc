/**
 * How a worker's clock stands to the coordinator's, from pings alone (as NTP does it, RFC 5905 section 8). Pure.
 *
 * The worker reads its clock somewhere between the ping's sending and the pong's coming; the middle is off by half the
 * round trip at most. So of the last few samples the one with the shortest round trip is the best known.
 */
export interface ClockSample {
  /** The worker's clock minus the coordinator's. */
  readonly offsetSeconds: number
  readonly rttSeconds: number
}

/** As NTP's clock filter holds twice as many: enough to meet a quiet moment, few enough for drift not to count. */
const MAX_SAMPLES = 16

/** @param at when the pong came and @param clockSeconds what the worker's clock said, each on its own clock */
export function withSample(
  samples: readonly ClockSample[],
  { at, rttSeconds, clockSeconds }: { at: number; rttSeconds: number; clockSeconds: number },
): readonly ClockSample[] {
  const sample = { offsetSeconds: clockSeconds - (at - rttSeconds / 2), rttSeconds }
  return [...samples, sample].slice(-MAX_SAMPLES)
}

export interface ClockOffset {
  readonly offsetSeconds: number
  /** The offset is off by no more than this. */
  readonly errorSeconds: number
}

/** `undefined` before the first pong. */
export function bestOffset(samples: readonly ClockSample[]): ClockOffset | undefined {
  const [first, ...others] = samples
  if (first === undefined) return undefined
  const { offsetSeconds, rttSeconds } = others.reduce((a, b) => (b.rttSeconds < a.rttSeconds ? b : a), first)
  return { offsetSeconds, errorSeconds: rttSeconds / 2 }
}
