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
/** So many rounds whose rates are no further apart than this have settled. */
const AGREEING = 3
const MOST_CHANGE = 1.3

/** Frames come in lumps, as buffers on the way are emptied: fewer of them say little of a rate. */
const LEAST_ARRIVALS = 5
const FRAMES = 16
const LEAST_FRAME_BYTES = 2 ** 12
const MOST_FRAME_BYTES = 2 ** 18

/** No link is faster; the clock may not tell the arrivals apart. */
const LEAST_SECONDS = 1e-6

/** Bytes to ask for in the next round, or `undefined` when enough is known. `now` is on the clock of the rounds. */
export function nextVolume(rounds: readonly Round[], rttSeconds: number, now: number): number | undefined {
  const [first, last] = [rounds[0], rounds.at(-1)]
  if (first === undefined || last === undefined) return FIRST_BYTES
  if (isLong(last, rttSeconds) && hasSettled(rounds, rttSeconds)) return undefined
  const bytesLeft = MOST_BYTES - rounds.reduce((sum, round) => sum + bytesOf(round), 0)
  const fits = Math.floor(sustainedRate([last], rttSeconds) * (deadlineOf(first, rttSeconds) - now))
  const volume = Math.min(2 * bytesOf(last), bytesLeft, fits)
  return volume < FIRST_BYTES ? undefined : volume
}

/**
 * Whether a round is to be left before all its frames are there: a link may turn out slower than it seemed when they were
 * asked for. `first` is the first round of all.
 */
export const isCut = (round: Round, first: Round, rttSeconds: number, now: number): boolean =>
  now >= deadlineOf(first, rttSeconds) && laterHalf([round], rttSeconds).length > LEAST_ARRIVALS

/** A volume as frames: several, so that they can be in flight together, and none larger than a usual KV block. */
export function framesOf(volume: number): number[] {
  const frame = Math.min(Math.max(Math.ceil(volume / FRAMES), LEAST_FRAME_BYTES), MOST_FRAME_BYTES)
  return Array.from({ length: Math.ceil(volume / frame) }, (_, i) => Math.min(frame, volume - i * frame))
}

/**
 * Bytes per second in the later half of the time in which these rounds were on their way. By time and not by bytes: what a
 * token bucket lets through at once comes early and is many bytes in little time. Over rounds, because a host that is busy
 * for a moment must not count as a slow link.
 */
export function sustainedRate(rounds: readonly Round[], rttSeconds: number): number {
  const passed = timeline(rounds, rttSeconds)
  const half = laterHalf(rounds, rttSeconds)
  const later = half.length > LEAST_ARRIVALS ? half : passed.slice(-LEAST_ARRIVALS - 1)
  const [from, to] = [later[0]!, later.at(-1)!]
  return (to.bytes - from.bytes) / Math.max(to.seconds - from.seconds, LEAST_SECONDS)
}

/** What had arrived by when, in all and without the pauses between rounds. The first is nothing at no time. */
function timeline(rounds: readonly Round[], rttSeconds: number): Passed[] {
  const passed: Passed[] = [{ seconds: 0, bytes: 0 }]
  for (const { askedAt, arrivals } of rounds) {
    const before = passed.at(-1)!
    const started = Math.min(askedAt + rttSeconds, arrivals[0]?.at ?? askedAt)
    let bytes = before.bytes
    for (const arrival of arrivals) {
      bytes += arrival.bytes
      passed.push({ seconds: before.seconds + arrival.at - started, bytes })
    }
  }
  return passed
}

interface Passed {
  readonly seconds: number
  readonly bytes: number
}

/** From the last arrival of the earlier half on. */
function laterHalf(rounds: readonly Round[], rttSeconds: number): Passed[] {
  const passed = timeline(rounds, rttSeconds)
  const middle = passed.at(-1)!.seconds / 2
  return passed.slice(passed.findLastIndex(({ seconds }) => seconds <= middle))
}

const deadlineOf = ({ askedAt }: Round, rttSeconds: number): number =>
  askedAt + MOST_SECONDS + MOST_ROUND_TRIPS * rttSeconds

function isLong({ askedAt, arrivals }: Round, rttSeconds: number): boolean {
  const seconds = (arrivals.at(-1)?.at ?? askedAt) - askedAt - rttSeconds
  return seconds >= Math.max(LONG_SECONDS, LONG_ROUND_TRIPS * rttSeconds)
}

/** The last few rounds agree: two may do so by chance, while a busy host delays both alike. */
function hasSettled(rounds: readonly Round[], rttSeconds: number): boolean {
  if (rounds.length < AGREEING) return false
  const rates = rounds.slice(-AGREEING).map((round) => sustainedRate([round], rttSeconds))
  return Math.max(...rates) < MOST_CHANGE * Math.min(...rates)
}

const bytesOf = ({ arrivals }: Round): number => arrivals.reduce((sum, { bytes }) => sum + bytes, 0)
