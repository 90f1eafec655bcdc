/**
 * What the arrival times of a few frames say about a link. Pure: `probing.ts` has the sockets.
 *
 * A link is asked for more and more until the answer has settled: rounds of doubling volume, the frames of a round asked
 * for together, as KV is sent, so that latency does not count as bandwidth.
 */

/** One round: frames asked for together, and when each was there, in order. */
export interface Round {
  /** Seconds on the clock of the arrivals. */
  readonly askedAt: number
  readonly arrivals: readonly { readonly at: number; readonly bytes: number }[]
}

const FIRST_BYTES = 2 ** 15
/** All rounds together; 2 GB/s takes 25 ms for them. */
const MOST_BYTES = 48 * 2 ** 20
/** All rounds together, and some round trips more: TCP's window needs about ten of them to open. */
const MOST_SECONDS = 1.2
const MOST_ROUND_TRIPS = 16
/** A round that takes so long has seen the link's own rate; in fewer round trips TCP's window may be what bounds it. */
const LONG_SECONDS = 0.06
const LONG_ROUND_TRIPS = 4
/** A rate that grows faster than this from round to round has not settled. */
const GROWTH = 1.25

/** Fewer say nothing of a rate. */
const LEAST_ARRIVALS = 3
const FRAMES = 8
const LEAST_FRAME_BYTES = 2 ** 13
const MOST_FRAME_BYTES = 2 ** 20

/** No link is faster; the clock may not tell the arrivals apart. */
const LEAST_SECONDS = 1e-6

/** Bytes to ask for in the next round, or `undefined` when enough is known. `now` is on the clock of the rounds. */
export function nextVolume(rounds: readonly Round[], rttSeconds: number, now: number): number | undefined {
  const [first, last] = [rounds[0], rounds.at(-1)]
  if (first === undefined || last === undefined) return FIRST_BYTES
  if (isLong(last, rttSeconds) && hasSettled(rounds, rttSeconds)) return undefined
  const bytesLeft = MOST_BYTES - rounds.reduce((sum, round) => sum + bytesOf(round), 0)
  const secondsLeft = deadlineOf(first, rttSeconds) - now
  const volume = Math.min(2 * bytesOf(last), bytesLeft, Math.floor(tailRate(last, rttSeconds) * secondsLeft))
  return volume < FIRST_BYTES ? undefined : volume
}

/**
 * Whether a round is to be left before all its frames are there: a link may turn out slower than it seemed when they were
 * asked for. `first` is the first round of all.
 */
export const isCut = (round: Round, first: Round, rttSeconds: number, now: number): boolean =>
  now >= deadlineOf(first, rttSeconds) && round.arrivals.length >= LEAST_ARRIVALS

/** A volume as frames: several, so that they can be in flight together, and none larger than a usual KV block. */
export function framesOf(volume: number): number[] {
  const frame = Math.min(Math.max(Math.ceil(volume / FRAMES), LEAST_FRAME_BYTES), MOST_FRAME_BYTES)
  return Array.from({ length: Math.ceil(volume / frame) }, (_, i) => Math.min(frame, volume - i * frame))
}

/**
 * Bytes per second in the later half of the round's time. By time and not by bytes: what a token bucket lets through at
 * once comes early and is many bytes in little time.
 */
export function tailRate({ askedAt, arrivals }: Round, rttSeconds: number): number {
  const first = arrivals[0]
  const last = arrivals.at(-1)
  if (first === undefined || last === undefined) return 0
  if (last.at === first.at) {
    const waited = last.at - askedAt
    const bytes = arrivals.reduce((sum, arrival) => sum + arrival.bytes, 0)
    return bytes / Math.max(waited - rttSeconds, waited / 2, LEAST_SECONDS)
  }
  const middle = (first.at + last.at) / 2
  const from = arrivals.findLastIndex(({ at }) => at <= middle)
  const bytes = arrivals.slice(from + 1).reduce((sum, arrival) => sum + arrival.bytes, 0)
  return bytes / Math.max(last.at - arrivals[from]!.at, LEAST_SECONDS)
}

const deadlineOf = ({ askedAt }: Round, rttSeconds: number): number =>
  askedAt + MOST_SECONDS + MOST_ROUND_TRIPS * rttSeconds

function isLong({ arrivals }: Round, rttSeconds: number): boolean {
  const seconds = (arrivals.at(-1)?.at ?? 0) - (arrivals[0]?.at ?? 0)
  return seconds >= Math.max(LONG_SECONDS, LONG_ROUND_TRIPS * rttSeconds)
}

function hasSettled(rounds: readonly Round[], rttSeconds: number): boolean {
  const [before, last] = rounds.slice(-2)
  return (
    before !== undefined && last !== undefined && tailRate(last, rttSeconds) < GROWTH * tailRate(before, rttSeconds)
  )
}

const bytesOf = ({ arrivals }: Round): number => arrivals.reduce((sum, { bytes }) => sum + bytes, 0)
