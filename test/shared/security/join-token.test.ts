import assert from 'node:assert/strict'
import { describe, it } from 'node:test'
import { isSecretOf, newToken, parseToken, secretHash, tokenText } from '../../../shared/security/join-token.ts'

const authority = 'c'.repeat(64)

describe('a join token', () => {
  it('comes back from its text', () => {
    const token = newToken(authority)
    assert.deepEqual(parseToken(tokenText(token)), token)
    assert.deepEqual(parseToken(` ${tokenText(token)}\n`), token)
  })

  it('is another one every time', () => {
    const texts = new Set(Array.from({ length: 100 }, () => newToken(authority).secret))
    assert.equal(texts.size, 100)
  })

  it('is kept as a hash that only its secret fits', () => {
    const { secret } = newToken(authority)
    assert.ok(isSecretOf(secret, secretHash(secret)))
    assert.ok(!isSecretOf(newToken(authority).secret, secretHash(secret)))
  })

  for (const text of ['', 'v1', `v2.${authority}.00000000.${'A'.repeat(22)}`, `v1.${authority}.0.${'A'.repeat(22)}`])
    it(`is not ${JSON.stringify(text)}`, () => assert.throws(() => parseToken(text), { code: 'token_refused' }))
})
