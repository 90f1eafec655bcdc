import assert from 'node:assert/strict'
import { describe, it } from 'node:test'
import { checkToken, type TokenRecord } from '../../../coordinator/security/token-rules.ts'
import { secretHash } from '../../../shared/security/join-token.ts'

const secret = 'S'.repeat(22)
const record: TokenRecord = {
  id: '00000001',
  hash: secretHash(secret),
  role: 'decode',
  uses: 1,
  createdAt: 100,
  expiresAt: 200,
}
const named = { ...record, name: 'kitchen' }

describe('checking a token', () => {
  for (const [what, token, wish, granted] of [
    ['gives the token’s role and the wished name', record, { name: 'attic' }, { role: 'decode', name: 'attic' }],
    ['leaves the name open if nobody says one', record, {}, { role: 'decode', name: undefined }],
    ['gives the token’s name', named, {}, { role: 'decode', name: 'kitchen' }],
    ['takes the token’s name as the wish', named, { name: 'kitchen' }, { role: 'decode', name: 'kitchen' }],
  ] as const)
    it(what, () => assert.deepEqual(checkToken(token, secret, wish, 199), granted))

  for (const [what, token, asked, wish, now, message] of [
    ['an unknown token', undefined, secret, {}, 150, /is unknown here/],
    ['a wrong secret', record, 'T'.repeat(22), {}, 150, /is unknown here/],
    ['a wrong secret of a token that has ended alike', record, 'T'.repeat(22), {}, 250, /is unknown here/],
    ['a token that has ended', record, secret, {}, 200, /ended at/],
    ['another name than the token’s', named, secret, { name: 'attic' }, 150, /is for kitchen, not for attic/],
  ] as const)
    it(`refuses ${what}`, () =>
      assert.throws(() => checkToken(token, asked, wish, now), { code: 'token_refused', message }))
})
