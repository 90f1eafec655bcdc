import assert from 'node:assert/strict'
import { describe, it } from 'node:test'
import { HeadraceError } from '../../../shared/errors.ts'
import { BufferPool } from '../../../shared/link/buffer-pool.ts'
import { DATA_LIMITS, type Dialer, type Link, MAX_BLOCK_BYTES } from '../../../shared/link/link.ts'
import { realClock } from '../../../shared/link/real-clock.ts'
import { wsDialer } from '../../../shared/link/ws-link.ts'
import { listenLinks } from '../../../shared/link/ws-server.ts'
import { createLog } from '../../../shared/log.ts'
import { PROTOCOL_VERSION } from '../../../shared/protocol/control.ts'
import { decodeMessage, encodeMessage } from '../../../shared/protocol/messages.ts'
import { type PeerRequest, peerDeliverySchema, peerRequestSchema } from '../../../shared/protocol/peer.ts'
import { PeerListening } from '../../../worker/peers/listening.ts'
import { LinkMeasuring } from '../../../worker/peers/measuring.ts'
import { TicketBook } from '../../../worker/security/ticket-book.ts'
import { ManualClock } from '../../support/manual-clock.ts'
import { MemoryNetwork } from '../../support/memory-link.ts'

const FINGERPRINT = 'f'.repeat(64)
const log = createLog('test', 'silent')
const stopped = new HeadraceError('cancelled', 'enough')
const never = new AbortController().signal

const listens = (fingerprint = FINGERPRINT) =>
  new PeerListening({
    fingerprint,
    tickets: new TicketBook('w1', realClock),
    clock: realClock,
    log,
    buffers: new BufferPool(),
  })
const measures = (dialer: Dialer, of: { fingerprint?: string; clock?: ManualClock } = {}) =>
  new LinkMeasuring({
    dialer,
    worker: 'd1',
    fingerprint: FINGERPRINT,
    clock: realClock,
    log,
    buffers: new BufferPool(),
    ...of,
  })
const turn = () => new Promise((resolve) => setImmediate(resolve))
const peer = (name: string) => ({ worker: name, url: `memory://${name}` })

/** A network on which `w1` serves, and the links that were dialled to it. */
function network() {
  const net = new MemoryNetwork()
  const listening = listens()
  const links: Link[] = []
  net.register('memory://w1', DATA_LIMITS, (link) => {
    links.push(link)
    void listening.serve(link)
  })
  return { net, listening, links }
}

describe('measuring a link', () => {
  it('gives its round trip and rate, and leaves no connection behind', async () => {
    const { net, links } = network()
    const [link, ...others] = await measures(net).measure([peer('w1')])
    assert.ok(link && others.length === 0)
    assert.equal(link.from, 'w1')
    assert.ok(link.rttSeconds >= 0 && link.bytesPerSecond > 0 && Number.isFinite(link.bytesPerSecond))
    assert.equal(links.length, 1)
    while (!links[0]!.closed.aborted) await turn()
  })

  it('works over sockets', async () => {
    const listening = listens()
    const options = { host: '127.0.0.1', port: 0, path: '/link', limits: DATA_LIMITS }
    const server = await listenLinks({ ...options, onLink: (link) => void listening.serve(link) })
    const [link] = await measures(wsDialer).measure([{ worker: 'w1', url: server.url }])
    assert.ok(link && link.rttSeconds > 0 && link.bytesPerSecond > 0)
    await server.close()
  })

  it('leaves out whom it cannot reach, and who will not answer, and measures the others', async () => {
    const { net } = network()
    net.register('memory://other-model', DATA_LIMITS, (link) => {
      void listens('e'.repeat(64)).serve(link)
    })
    net.register('memory://liar', DATA_LIMITS, (link) => void answersWith(link, new Uint8Array(3)))
    const found = await measures(net).measure([peer('nobody'), peer('other-model'), peer('liar'), peer('w1')])
    assert.deepEqual(
      found.map(({ from }) => from),
      ['w1'],
    )
  })

  it('is put off by a sender that has a run to serve', async () => {
    const { net, listening } = network()
    listening.open('run-1', { handle: () => undefined })
    assert.deepEqual(await measures(net).measure([peer('w1')]), [])
    listening.close('run-1')
    assert.equal((await measures(net).measure([peer('w1')])).length, 1)
  })

  it('ends at once when it is stopped, with what it has, and closes its connection', async () => {
    const { net } = network()
    let hung: Link | undefined
    net.register('memory://hung', DATA_LIMITS, (link) => {
      hung = link
    })
    const measuring = measures(net)
    const found = measuring.measure([peer('w1'), peer('hung'), peer('w1')])
    while (hung === undefined) await turn()
    measuring.stop(stopped)
    assert.equal((await found).length, 1)
    while (!hung.closed.aborted) await turn()
  })

  it('gives way to the next one that is asked for', async () => {
    const { net } = network()
    net.register('memory://hung', DATA_LIMITS, () => undefined)
    const measuring = measures(net)
    const first = measuring.measure([peer('hung')])
    assert.equal((await measuring.measure([peer('w1')])).length, 1)
    assert.deepEqual(await first, [])
  })

  it('gives a silent peer up after a while', async () => {
    const { net } = network()
    net.register('memory://hung', DATA_LIMITS, () => undefined)
    const clock = new ManualClock()
    const found = measures(net, { clock }).measure([peer('hung')])
    await clock.sleeping(15)
    clock.advance(15)
    assert.deepEqual(await found, [])
  })
})

describe('a worker that is probed', () => {
  const hello: PeerRequest = { kind: 'hello', protocol: PROTOCOL_VERSION, worker: 'd1', fingerprint: FINGERPRINT }
  const send = (link: Link, message: PeerRequest) => link.send(encodeMessage(peerRequestSchema, message))

  it('answers in order with as many bytes as were asked for, hard to compress', async () => {
    const { net } = network()
    const link = await net.dial('memory://w1', DATA_LIMITS, never)
    await send(link, hello)
    const sizes = [0, 1, 4096, MAX_BLOCK_BYTES, 7]
    for (const [seq, bytes] of sizes.entries()) void send(link, { kind: 'probe', seq, bytes })
    for (const [seq, bytes] of sizes.entries()) {
      const { message, payload } = decodeMessage(peerDeliverySchema, (await link.receive())!, DATA_LIMITS.maxFrameBytes)
      assert.deepEqual(message, { kind: 'probed', seq })
      assert.equal(payload.length, bytes)
      if (bytes >= 4096) assert.equal(new Set(payload.subarray(0, 4096)).size, 256)
    }
    link.close()
  })

  it('wants to know by whom', async () => {
    const { net } = network()
    const link = await net.dial('memory://w1', DATA_LIMITS, never)
    await send(link, { kind: 'probe', seq: 0, bytes: 8 })
    await assert.rejects(
      link.receive(),
      (error) => error instanceof HeadraceError && error.code === 'unexpected_message',
    )
  })

  it('holds back who asks without reading', async () => {
    const { net } = network()
    const link = await net.dial('memory://w1', { ...DATA_LIMITS, maxQueuedFrames: 2 }, never)
    await send(link, hello)
    let accepted = 0
    const asked = Array.from({ length: 100 }, async (_, seq) => {
      await send(link, { kind: 'probe', seq, bytes: 1024 })
      accepted++
    })
    for (let before = -1; before !== accepted; ) {
      before = accepted
      for (let i = 0; i < 20; i++) await turn()
    }
    assert.ok(accepted < 100, `${accepted} requests were taken`)
    for (let seq = 0; seq < 100; seq++) assert.ok(await link.receive())
    await Promise.all(asked)
    link.close()
  })
})

async function answersWith(link: Link, payload: Uint8Array): Promise<void> {
  for (let frame = await link.receive(); frame; frame = await link.receive()) {
    const { message } = decodeMessage(peerRequestSchema, frame, DATA_LIMITS.maxFrameBytes)
    if (message.kind !== 'probe') continue
    await link.send(encodeMessage(peerDeliverySchema, { kind: 'probed', seq: message.seq }, payload))
  }
}
