import assert from 'node:assert/strict'
import { describe, it } from 'node:test'
import { parseCores, placeHosts, placesText } from './harness/places.ts'

describe('where simulated hosts run', () => {
  it('reads the kernel’s lists of cores', () => {
    assert.deepEqual(parseCores('0-2,5'), [0, 1, 2, 5])
    assert.deepEqual(parseCores('7'), [7])
  })

  it('gives each a core of its own while there are enough', () => {
    assert.deepEqual(placeHosts([1, 1], [2, 3]), [
      { core: 2, share: 1 },
      { core: 3, share: 1 },
    ])
    assert.equal(placesText(placeHosts([1, 1], [2, 3])), '2 workers of one core each')
  })

  it('slows all by one factor where they must share, and leaves some of each core', () => {
    const places = placeHosts([1, 1, 1, 1], [0, 1])
    assert.ok(places.every(({ share }) => Math.abs(share - 0.4) < 1e-9))
    assert.deepEqual(
      places.map(({ core }) => core),
      [0, 1, 0, 1],
    )
    assert.match(placesText(places), /^workers have 40 % of core 0/)
  })

  it('keeps the proportions of unlike speeds', () => {
    const places = placeHosts([1, 0.5, 0.25], [0, 1])
    assert.deepEqual(places, [
      { core: 0, share: 1 },
      { core: 1, share: 0.5 },
      { core: 1, share: 0.25 },
    ])
    const onOne = placeHosts([1, 0.5, 0.25], [0]).map(({ share }) => share)
    assert.ok(Math.abs(onOne[0]! / onOne[2]! - 4) < 1e-9)
    assert.ok(onOne[0]! + onOne[1]! + onOne[2]! <= 0.8)
  })

  it('refuses what fits no core', () => {
    assert.throws(() => placeHosts([2], [0]), /above 0 and up to 1/)
    assert.throws(() => placeHosts(new Array<number>(100).fill(1), [0]), /too many/)
  })
})
