import assert from 'node:assert/strict'
import { describe, it } from 'node:test'
import fc from 'fast-check'
import { bestOffset, type ClockSample, withSample } from '../../../coordinator/trace/alignment.ts'

/** A worker whose clock is `skew` ahead answers a ping after `there`, and the pong takes `back`. */
function ping(samples: readonly ClockSample[], sentAt: number, there: number, back: number, skew: number) {
  return withSample(samples, {
    at: sentAt + there + back,
    rttSeconds: there + back,
    clockSeconds: sentAt + there + skew,
  })
}

describe('the offset of a clock', () => {
  it('is unknown before the first pong', () => assert.equal(bestOffset([]), undefined))

  it('is exact when both ways take the same time', () => {
    const { offsetSeconds, errorSeconds } = bestOffset(ping([], 100, 0.25, 0.25, -37.5))!
    assert.equal(offsetSeconds, -37.5)
    assert.equal(errorSeconds, 0.25)
  })

  it('is never off by more than it says, however the ways differ', () => {
    const way = fc.double({ min: 0, max: 2, noNaN: true })
    const skews = fc.double({ min: -1e6, max: 1e6, noNaN: true })
    fc.assert(
      fc.property(fc.array(fc.tuple(way, way), { minLength: 1, maxLength: 40 }), skews, (pings, skew) => {
        let samples: readonly ClockSample[] = []
        for (const [second, [there, back]] of pings.entries()) samples = ping(samples, second, there, back, skew)
        const { offsetSeconds, errorSeconds } = bestOffset(samples)!
        assert.ok(Math.abs(offsetSeconds - skew) <= errorSeconds + 1e-6)
        const shortest = Math.min(...pings.slice(-16).map(([there, back]) => there + back))
        assert.ok(Math.abs(errorSeconds - shortest / 2) < 1e-9)
        assert.ok(samples.length <= 16)
      }),
      { seed: 31, numRuns: 300 },
    )
  })

  it('follows a clock that drifts, because old samples go', () => {
    let samples: readonly ClockSample[] = ping([], 0, 0, 0, 5)
    for (let second = 1; second <= 16; second++) samples = ping(samples, second, 0.01, 0.01, 5 + second)
    assert.ok(bestOffset(samples)!.offsetSeconds > 5.5)
  })
})
