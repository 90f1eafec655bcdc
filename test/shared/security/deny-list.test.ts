import assert from 'node:assert/strict'
import { describe, it } from 'node:test'
import { isDenied, stillDenied } from '../../../shared/security/deny-list.ts'

const key = 'a'.repeat(64)
const list = [{ name: 'kitchen', key, at: 1000, until: 2000 }]

describe('a deny list', () => {
  for (const [what, who, denied] of [
    ['the key, under any name and whenever issued', { name: 'attic', key, issuedAt: 5000 }, true],
    ['a certificate of the name from before', { name: 'kitchen', key: 'b'.repeat(64), issuedAt: 999 }, true],
    ['one of the same second', { name: 'kitchen', key: 'b'.repeat(64), issuedAt: 1000 }, true],
    ['a new key of the name, from a new token', { name: 'kitchen', key: 'b'.repeat(64), issuedAt: 1001 }, false],
    ['somebody else', { name: 'attic', key: 'b'.repeat(64), issuedAt: 999 }, false],
  ] as const)
    it(`${denied ? 'holds' : 'lets in'} ${what}`, () => assert.equal(isDenied(list, who), denied))

  it('without a key is about the name alone', () => {
    const nameless = [{ name: 'kitchen', at: 1000, until: 2000 }]
    assert.ok(isDenied(nameless, { name: 'kitchen', key, issuedAt: 1 }))
    assert.ok(!isDenied(nameless, { name: 'attic', key, issuedAt: 1 }))
  })

  it('drops what no certificate can match any more, and refuses rather than forget what one can', () => {
    assert.deepEqual(stillDenied(list, 1999), list)
    assert.deepEqual(stillDenied(list, 2000), [])
    const full = Array.from({ length: 256 }, (_, i) => ({ name: `w${i}`, at: 1, until: 10 }))
    assert.throws(() => stillDenied(full, 9), { code: 'state_failed' })
    assert.deepEqual(stillDenied(full, 10), [])
  })
})
