import assert from 'node:assert/strict'
import { describe, it } from 'node:test'
import fc from 'fast-check'
import { framesOf, isCut, nextVolume, type Round, sustainedRate } from '../../../worker/peers/link-rate.ts'
import { seededRandom } from '../../support/random.ts'

interface Net {
  readonly rtt: number
  readonly bytesPerSecond: number
  /** A token bucket: so many bytes pass at once, at `lineRate`. */
  readonly burst?: number
  readonly lineRate?: number
  /** TCP's window: it opens by what was acknowledged, from here. */
  readonly firstWindow?: number
  /** Each frame is up to this much late, in seconds. */
  readonly jitter?: number
}

/** Asks a link of this kind for rounds until enough is known. */
function measure(net: Net) {
  const random = seededRandom(5)
  let window = net.firstWindow ?? Number.POSITIVE_INFINITY
  let now = 1
  let tokens = net.burst ?? 0
  let bytes = 0
  const rounds: Round[] = []

  const transmit = (volume: number): Round => {
    const askedAt = now
    const arrivals: { at: number; bytes: number }[] = []
    const round = { askedAt, arrivals }
    let at = askedAt + net.rtt
    let flight = window
    let flightEnds = at + net.rtt
    for (const frame of framesOf(volume)) {
      for (let left = frame; left > 0; ) {
        if (flight <= 0) {
          window = Math.min(2 * window, 2 ** 40)
          flight = window
          at = Math.max(at, flightEnds)
          flightEnds = at + net.rtt
        }
        const part = Math.min(left, flight, 1500)
        tokens -= part
        at += part / (tokens > 0 ? (net.lineRate ?? net.bytesPerSecond) : net.bytesPerSecond)
        flight -= part
        left -= part
      }
      const late = (net.jitter ?? 0) * random()
      arrivals.push({ at: Math.max(at + late, arrivals.at(-1)?.at ?? 0), bytes: frame })
      bytes += frame
      if (isCut(round, rounds[0] ?? round, net.rtt, at)) break
    }
    return round
  }

  for (let volume = nextVolume(rounds, net.rtt, now); volume; volume = nextVolume(rounds, net.rtt, now)) {
    const round = transmit(volume)
    now = round.arrivals.at(-1)!.at
    rounds.push(round)
  }
  return { rate: sustainedRate(rounds, net.rtt), seconds: now - 1, bytes }
}

const near = (actual: number, expected: number, tolerance: number) =>
  assert.ok(Math.abs(actual / expected - 1) <= tolerance, `${actual}, not ${expected}`)

const MIB = 2 ** 20

describe('the rate of a link', () => {
  const cases: readonly [what: string, net: Net, most: { seconds: number; bytes: number }][] = [
    ['10 Mbit/s', { rtt: 0.002, bytesPerSecond: 1.25e6 }, { seconds: 0.5, bytes: MIB / 2 }],
    ['10 Mbit/s and 100 ms', { rtt: 0.1, bytesPerSecond: 1.25e6 }, { seconds: 2.5, bytes: 2 * MIB }],
    ['100 Mbit/s', { rtt: 0.001, bytesPerSecond: 1.25e7 }, { seconds: 0.5, bytes: 4 * MIB }],
    ['1 Gbit/s', { rtt: 0.0003, bytesPerSecond: 1.25e8 }, { seconds: 0.4, bytes: 48 * MIB }],
    ['1 Gbit/s, jittery', { rtt: 0.0003, bytesPerSecond: 1.25e8, jitter: 0.002 }, { seconds: 0.4, bytes: 48 * MIB }],
    ['25 Gbit/s', { rtt: 0.0001, bytesPerSecond: 3.1e9 }, { seconds: 0.1, bytes: 48 * MIB }],
    ['1 Mbit/s', { rtt: 0.02, bytesPerSecond: 1.25e5 }, { seconds: 1.6, bytes: MIB / 4 }],
    ['64 kbit/s', { rtt: 0.3, bytesPerSecond: 8000 }, { seconds: 10, bytes: MIB / 16 }],
  ]
  for (const [what, net, most] of cases)
    it(`is found: ${what}`, () => {
      const { rate, seconds, bytes } = measure(net)
      near(rate, net.bytesPerSecond, 0.1)
      assert.ok(seconds <= most.seconds, `${seconds} s`)
      assert.ok(bytes <= most.bytes, `${bytes} bytes`)
    })

  for (const burst of [32_000, 200_000, 2 * MIB, 10 * MIB, 30 * MIB])
    it(`is not taken for that of a burst of ${burst} bytes`, () => {
      const shaped = { rtt: 0.002, bytesPerSecond: 1.25e6, burst, lineRate: 2.5e9 }
      const { rate, seconds } = measure(shaped)
      near(rate, 1.25e6, 0.15)
      assert.ok(seconds < 2.2, `${seconds} s`)
    })

  for (const [rtt, bytesPerSecond] of [
    [0.02, 1.25e7],
    [0.05, 1.25e7],
    [0.08, 1.25e6],
    [0.02, 6e7],
  ] as const)
    it(`is not that of a window which opens: ${rtt} s, ${bytesPerSecond} bytes/s`, () => {
      near(measure({ rtt, bytesPerSecond, firstWindow: 14_000 }).rate, bytesPerSecond, 0.2)
    })

  it('is positive and finite for any arrivals', () => {
    const arrival = fc.record({
      after: fc.double({ min: 0, max: 10, noNaN: true }),
      bytes: fc.integer({ min: 1, max: MIB }),
    })
    fc.assert(
      fc.property(fc.array(arrival, { minLength: 1, maxLength: 40 }), (gaps) => {
        let at = 0
        const arrivals = gaps.map(({ after, bytes }) => {
          at += after
          return { at, bytes }
        })
        const rate = sustainedRate([{ askedAt: 0, arrivals }], 0.001)
        assert.ok(rate > 0 && Number.isFinite(rate), String(rate))
      }),
      { seed: 9, numRuns: 500 },
    )
  })

  it('is asked for in frames no larger than a KV block, several at a time, that add up', () => {
    for (const volume of [1, 2 ** 15, 100_000, MIB, 5 * MIB + 1, 48 * MIB]) {
      const frames = framesOf(volume)
      assert.equal(
        frames.reduce((sum, bytes) => sum + bytes, 0),
        volume,
      )
      assert.ok(Math.max(...frames) <= MIB / 4 && frames.length <= 192)
      if (volume >= 2 ** 15) assert.ok(frames.length >= 4)
    }
  })
})
