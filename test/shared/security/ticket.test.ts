import assert from 'node:assert/strict'
import { describe, it } from 'node:test'
import {
  checkTicket,
  newTicketKey,
  signTicket,
  type TicketClaim,
  ticketKeyOf,
} from '../../../shared/security/ticket.ts'

const claim: TicketClaim = {
  cluster: 'home',
  run: 'run-1.0',
  source: 'w1',
  epoch: 3,
  target: 'd1',
  purpose: 'handoff',
}
const pair = newTicketKey()
const key = ticketKeyOf(pair.told)
const ticket = signTicket(claim, 160, pair.key)

describe('a ticket', () => {
  it('is good for what it was made for, until it ends', () => {
    checkTicket(ticket, claim, 100, key)
    checkTicket(ticket, claim, 160, key)
    assert.throws(() => checkTicket(ticket, claim, 160.001, key), { code: 'ticket_refused', message: /has ended/ })
  })

  for (const [what, other] of Object.entries<Partial<TicketClaim>>({
    run: { run: 'run-1.1' },
    cluster: { cluster: 'away' },
    source: { source: 'w2' },
    'membership of the source': { epoch: 4 },
    target: { target: 'd2' },
    purpose: { purpose: 'prefix' },
    'pair, turned round': { source: 'd1', target: 'w1' },
  }))
    it(`is useless for another ${what}`, () =>
      assert.throws(() => checkTicket(ticket, { ...claim, ...other }, 100, key), { code: 'ticket_refused' }))

  it('cannot be made to last, or be signed by anybody else', () => {
    const [, signature] = ticket.split(/\.(?=[^.]*$)/)
    for (const forged of [
      `999.000.${signature}`,
      `${ticket.slice(0, -1)}${ticket.endsWith('A') ? 'B' : 'A'}A`,
      signTicket(claim, 160, newTicketKey().key),
      ticket.slice(0, -1),
      `${ticket}A`,
      ` ${ticket}`,
      '',
      'x'.repeat(128),
      `1e9.${signature}`,
    ])
      assert.throws(() => checkTicket(forged, claim, 100, key), { code: 'ticket_refused' }, forged)
  })

  it('tells names apart whatever is in them', () => {
    const odd = { ...claim, source: 'a","b', target: 'c' }
    const signed = signTicket(odd, 160, pair.key)
    checkTicket(signed, odd, 100, key)
    assert.throws(() => checkTicket(signed, { ...claim, source: 'a', target: 'b","c' }, 100, key), {
      code: 'ticket_refused',
    })
  })

  it('needs a key that is one', () => {
    assert.throws(() => ticketKeyOf('A'.repeat(42)), { code: 'frame_bad_schema' })
  })
})
