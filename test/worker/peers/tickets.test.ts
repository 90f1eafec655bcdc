import assert from 'node:assert/strict'
import { describe, it } from 'node:test'
import { TicketOffice } from '../../../coordinator/security/ticket-office.ts'
import { BufferPool } from '../../../shared/link/buffer-pool.ts'
import { DATA_LIMITS } from '../../../shared/link/link.ts'
import { createLog } from '../../../shared/log.ts'
import { PROTOCOL_VERSION } from '../../../shared/protocol/control.ts'
import { decodeMessage, encodeMessage } from '../../../shared/protocol/messages.ts'
import { type PeerRequest, peerDeliverySchema, peerRequestSchema } from '../../../shared/protocol/peer.ts'
import { PeerListening, type RunRequest } from '../../../worker/peers/listening.ts'
import { TicketBook } from '../../../worker/security/ticket-book.ts'
import { ManualClock } from '../../support/manual-clock.ts'
import { memoryLinkPair } from '../../support/memory-link.ts'

const fingerprint = 'f'.repeat(64)
const RUNS = ['run-1.0', 'run-2.0']

/** Worker w1 serves two runs; its clock and the coordinator's differ. */
function serving() {
  const [theirs, ours] = [new ManualClock(), new ManualClock()]
  theirs.advance(5000)
  const office = new TicketOffice(theirs)
  const tickets = new TicketBook('w1', ours)
  const listening = new PeerListening({
    fingerprint,
    tickets,
    clock: ours,
    log: createLog('test', 'silent'),
    buffers: new BufferPool(),
  })
  const handed: string[] = []
  const handle = (request: RunRequest, from: string) => void handed.push(`${from} ${request.kind} ${request.run}`)
  for (const run of RUNS) listening.open(run, { handle })
  const pass = (seconds: number): void => {
    theirs.advance(seconds)
    ours.advance(seconds)
  }
  /** Says `requests` as the worker `from`; resolves to the code of the answer, or `undefined` if the last was taken. */
  const say = async (from: string, ...requests: PeerRequest[]): Promise<string | undefined> => {
    const [near, far] = memoryLinkPair()
    void listening.serve(near)
    const before = handed.length
    const hello = { kind: 'hello', protocol: PROTOCOL_VERSION, worker: from, fingerprint } as const
    for (const request of [hello, ...requests]) await far.send(encodeMessage(peerRequestSchema, request))
    await far.send(encodeMessage(peerRequestSchema, { kind: 'probe', seq: 0, bytes: 0 }))
    const { message } = decodeMessage(peerDeliverySchema, (await far.receive())!, DATA_LIMITS.maxFrameBytes)
    far.close()
    if (message.kind === 'ended') return message.code
    return handed.length > before ? undefined : 'nothing'
  }
  return { office, tickets, handed, say, pass }
}

const wants = (run: string, ticket: string, purpose: 'prefix' | 'handoff' = 'prefix'): PeerRequest => ({
  kind: 'subscribe',
  run,
  purpose,
  window: 1,
  ticket,
})
const [mine = '', other = ''] = RUNS
const ask = { run: mine, source: 'w1', target: 'w2', purpose: 'prefix' } as const

describe('a worker that serves KV', () => {
  it('takes who has a ticket of the coordinator', async () => {
    const { office, tickets, handed, say } = serving()
    tickets.learn(office.rule, 3)
    assert.equal(await say('w2', wants(mine, office.sign(ask, 3))), undefined)
    assert.deepEqual(handed, [`w2 subscribe ${mine}`])
  })

  it('finds a stolen ticket useless for another run, another worker, another purpose', async () => {
    const { office, tickets, handed, say } = serving()
    tickets.learn(office.rule, 3)
    const ticket = office.sign(ask, 3)
    assert.equal(await say('w2', wants(other, ticket)), 'ticket_refused')
    assert.equal(await say('w3', wants(mine, ticket)), 'ticket_refused')
    assert.equal(await say('w2', wants(mine, ticket, 'handoff')), 'ticket_refused')
    assert.equal(await say('w2', wants(mine, office.sign({ ...ask, source: 'w9' }, 3))), 'ticket_refused')
    assert.deepEqual(handed, [])
  })

  it('finds it useless a minute later, whatever its own clock says', async () => {
    const { office, tickets, say, pass } = serving()
    tickets.learn(office.rule, 3)
    const ticket = office.sign(ask, 3)
    pass(59)
    assert.equal(await say('w2', wants(mine, ticket)), undefined)
    pass(2)
    assert.equal(await say('w2', wants(mine, ticket)), 'ticket_refused')
  })

  it('finds it useless once it has joined again, or the coordinator is another', async () => {
    const { office, tickets, say } = serving()
    tickets.learn(office.rule, 4)
    assert.equal(await say('w2', wants(mine, office.sign(ask, 3))), 'ticket_refused')
    tickets.learn(new TicketOffice(new ManualClock()).rule, 3)
    assert.equal(await say('w2', wants(mine, office.sign(ask, 3))), 'ticket_refused')
  })

  it('takes nobody before it has joined', async () => {
    const { office, say } = serving()
    assert.equal(await say('w2', wants(mine, office.sign(ask, 0))), 'ticket_refused')
  })

  it('lets nobody raise or end what he has not subscribed to on the same link', async () => {
    const { office, tickets, handed, say } = serving()
    tickets.learn(office.rule, 3)
    assert.equal(await say('w2', { kind: 'unsubscribe', run: mine }), 'nothing')
    assert.equal(await say('w2', { kind: 'credit', run: mine, window: 9 }), 'nothing')
    const subscribed = wants(mine, office.sign(ask, 3))
    await say('w2', subscribed, { kind: 'credit', run: mine, window: 2 }, { kind: 'unsubscribe', run: mine })
    assert.deepEqual(handed, [`w2 subscribe ${mine}`, `w2 credit ${mine}`, `w2 unsubscribe ${mine}`])
  })
})
