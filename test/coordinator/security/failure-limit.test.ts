import assert from 'node:assert/strict'
import { describe, it } from 'node:test'
import { FailureLimit } from '../../../coordinator/security/failure-limit.ts'

const failing = (limit: FailureLimit, address: string, times: number, now = 0): void => {
  for (let i = 0; i < times; i++) limit.failed(address, now)
}

describe('the limit on failed joins', () => {
  it('lets ten fail, then none for the rest of a minute', () => {
    const limit = new FailureLimit()
    failing(limit, '10.0.0.1', 9)
    assert.equal(limit.waitSeconds('10.0.0.1', 1), 0)
    failing(limit, '10.0.0.1', 1)
    assert.equal(limit.waitSeconds('10.0.0.1', 1), 59)
    assert.equal(limit.waitSeconds('10.0.0.2', 1), 0)
    assert.equal(limit.waitSeconds('10.0.0.1', 60), 0)
    failing(limit, '10.0.0.1', 1, 60)
    assert.equal(limit.waitSeconds('10.0.0.1', 60), 0)
  })

  for (const [one, other, same] of [
    ['2001:db8::1', '2001:db8::ffff:1', true],
    ['2001:db8:0:1::1', '2001:db8:0:1:2:3:4:5', true],
    ['2001:db8:0:1::1', '2001:db8:0:2::1', false],
    ['fe80::1%eth0', 'fe80::2%eth0', true],
    ['::1', '2001::1', false],
    ['::ffff:10.0.0.1', '10.0.0.1', true],
    ['::ffff:10.0.0.1', '::ffff:10.0.0.2', false],
  ] as const)
    it(`counts ${one} and ${other} ${same ? 'as one' : 'apart'}`, () => {
      const limit = new FailureLimit()
      failing(limit, one, 10)
      assert.equal(limit.waitSeconds(other, 0) > 0, same)
    })

  it('forgets the oldest when there are too many addresses', () => {
    const limit = new FailureLimit()
    failing(limit, 'first', 10)
    for (let i = 0; i < 4096; i++) limit.failed(`a${i}`, 0)
    assert.equal(limit.waitSeconds('first', 0), 0)
  })
})
