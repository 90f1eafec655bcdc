import assert from 'node:assert/strict'
import { describe, it } from 'node:test'
import { BURST, gateKey, HandshakeGate, MOST_SILENT, MOST_SILENT_OF_ONE } from '../../../shared/link/handshake-gate.ts'

describe('the gate of handshakes', () => {
  it('lets an address make a burst of them, then so many a second', () => {
    const gate = new HandshakeGate()
    const knocks = (count: number, now: number): number => {
      let admitted = 0
      for (let i = 0; i < count; i++)
        if (gate.knock('a', now) === undefined) {
          admitted++
          gate.settled('a')
        }
      return admitted
    }
    assert.equal(knocks(2 * BURST, 0), BURST)
    assert.equal(knocks(100, 1), 32)
    assert.equal(knocks(1000, 1000), BURST)
    assert.equal(gate.knock('b', 1000), undefined)
  })

  it('bounds links that have said nothing, of one address and in all', () => {
    const gate = new HandshakeGate()
    const silent = (address: string) => gate.knock(address, 0)
    for (let i = 0; i < MOST_SILENT_OF_ONE; i++) assert.equal(silent('a'), undefined)
    assert.equal(silent('a'), 429)
    for (let i = MOST_SILENT_OF_ONE; i < MOST_SILENT; i++) assert.equal(silent(`b${i}`), undefined)
    assert.equal(silent('c'), 503)
    gate.settled('a')
    assert.equal(silent('c'), undefined)
  })

  it('forgets the address that knocked first rather than grow', () => {
    const gate = new HandshakeGate()
    for (let i = 0; i < BURST; i++) {
      assert.equal(gate.knock('a', 0), undefined)
      gate.settled('a')
    }
    assert.equal(gate.knock('a', 0), 429)
    for (let i = 0; i < 4096; i++) {
      gate.knock(`b${i}`, 0)
      gate.settled(`b${i}`)
    }
    assert.equal(gate.knock('a', 0), undefined)
  })

  it('takes a network of IPv6 for one address, and IPv4 in any spelling for itself', () => {
    assert.equal(gateKey('10.0.0.1'), '10.0.0.1')
    assert.equal(gateKey('::ffff:10.0.0.1'), '10.0.0.1')
    assert.equal(gateKey('2001:db8:1:2:3:4:5:6'), '2001:db8:1:2')
    assert.equal(gateKey('2001:db8:1:2::9'), '2001:db8:1:2')
    assert.equal(gateKey('2001:db8::9'), '2001:db8:0:0')
    assert.equal(gateKey('fe80::1%eth0'), 'fe80:0:0:0')
    assert.equal(gateKey('::1'), '0:0:0:0')
  })
})
