import assert from 'node:assert/strict'
import { once } from 'node:events'
import { connect, type Socket } from 'node:net'
import { describe, it } from 'node:test'
import { WebSocket } from 'ws'
import { BURST, MOST_SILENT_OF_ONE } from '../../../shared/link/handshake-gate.ts'
import type { Link, LinkLimits } from '../../../shared/link/link.ts'
import { PATIENCE } from '../../../shared/link/link-watchdog.ts'
import { wsDialer } from '../../../shared/link/ws-link.ts'
import { type ListenOptions, listenLinks } from '../../../shared/link/ws-server.ts'
import { aborted } from '../../support/api.ts'

/** Peers that mean harm, on real sockets. Who is patient for a moment only is waited for, not slept for. */

const LIMITS: LinkLimits = { maxFrameBytes: 2 ** 20, maxQueuedFrames: 8 }
const brief = (of: Partial<typeof PATIENCE>): LinkLimits => ({
  ...LIMITS,
  patience: { ...PATIENCE, lookSeconds: 0.01, ...of },
})

async function listening(limits: LinkLimits = LIMITS, more: Partial<ListenOptions> = {}) {
  const accepted: Link[] = []
  const server = await listenLinks({
    host: '127.0.0.1',
    port: 0,
    path: '/link',
    limits,
    onLink: (link) => accepted.push(link),
    ...more,
  })
  return { server, accepted, [Symbol.asyncDispose]: () => server.close() }
}

/** A WebSocket by hand: what follows the handshake is bytes. */
async function rawSocket(port: number): Promise<Socket> {
  const socket = connect(port, '127.0.0.1')
  socket.on('error', () => socket.destroy())
  socket.write(
    'GET /link HTTP/1.1\r\nHost: h\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n' +
      'Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n',
  )
  await once(socket, 'data')
  return socket
}

async function opened(url: string): Promise<WebSocket> {
  const socket = new WebSocket(url)
  await once(socket, 'open')
  return socket
}

const codeOf = async (link: Link | undefined): Promise<string> => {
  const reason = (await aborted(link!.closed)) as { code: string }
  return reason.code
}

describe('a peer that says nothing', () => {
  it('loses its link when the time for its first frame is over', async () => {
    await using to = await listening(brief({ firstFrameSeconds: 0.05 }))
    const socket = await opened(to.server.url)
    const [code, reason] = await once(socket, 'close')
    assert.deepEqual([code, String(reason)], [4408, 'link_stalled'])
    assert.equal(await codeOf(to.accepted[0]), 'link_stalled')
  })

  it('may be silent once it has spoken', async () => {
    await using to = await listening(brief({ firstFrameSeconds: 0.05 }))
    const socket = await opened(to.server.url)
    socket.send(new Uint8Array(3))
    const other = await opened(to.server.url)
    await once(other, 'close') // by then its own time would be over too
    assert.equal(socket.readyState, WebSocket.OPEN)
    assert.equal(to.accepted[0]?.closed.aborted, false)
    socket.terminate()
  })

  it('takes no more than its share of the links', async () => {
    await using to = await listening()
    const silent = await Promise.all(Array.from({ length: MOST_SILENT_OF_ONE }, () => opened(to.server.url)))
    await assert.rejects(opened(to.server.url), /429/)
    silent[0]!.send(new Uint8Array(1))
    assert.ok(await to.accepted[0]?.receive())
    await (await wsDialer.dial(to.server.url, LIMITS, new AbortController().signal)).send(new Uint8Array(1))
    for (const socket of silent) socket.terminate()
  })

  it('cannot keep a request open whose header never ends', async () => {
    await using to = await listening(LIMITS, { headerSeconds: 0.1 })
    const socket = connect(to.server.port, '127.0.0.1')
    socket.write('GET /link HTTP/1.1\r\nHost: h\r\n')
    const drip = setInterval(() => socket.write('X-A: b\r\n'), 10)
    socket.on('error', () => undefined) // it may be told by a reset
    await once(socket.resume(), 'close')
    clearInterval(drip)
  })

  it('cannot send a header without measure', async () => {
    await using to = await listening()
    const socket = connect(to.server.port, '127.0.0.1')
    socket.on('error', () => undefined)
    socket.write(`GET /link HTTP/1.1\r\nHost: h\r\nX-A: ${'b'.repeat(20_000)}\r\n`)
    const [answer] = await once(socket, 'data')
    assert.match(String(answer), /^HTTP\/1.1 431 /)
    socket.destroy()
  })
})

describe('one address', () => {
  it('holds no more than its share of the connections, upgraded or silent, and may come again when it has let go', async () => {
    const refused: string[] = []
    const connections = { most: 2, exempt: () => false }
    await using to = await listening(LIMITS, { connections, onRefused: (reason) => refused.push(reason) })
    const silent = connect(to.server.port, '127.0.0.1')
    await once(silent, 'connect')
    const link = await opened(to.server.url)
    const third = connect(to.server.port, '127.0.0.1')
    third.on('error', () => undefined) // it may be told by a reset
    await once(third.resume(), 'close')
    assert.deepEqual(refused, ['address'])
    silent.destroy()
    link.terminate()
    await aborted(to.accepted[0]!.closed)
    const again = await opened(to.server.url)
    assert.equal(refused.length, 1)
    again.terminate()
  })

  it('is not counted if it is this machine', async () => {
    await using to = await listening(LIMITS, { connections: { most: 1 } })
    const sockets = await Promise.all([1, 2, 3].map(() => opened(to.server.url)))
    for (const socket of sockets) socket.terminate()
  })
})

describe('a flood', () => {
  it('of handshakes is held to a rate for its address', async () => {
    const reasons = new Set<string>()
    await using to = await listening(LIMITS, { onRefused: (reason) => reasons.add(reason) })
    let refused = 0
    for (let round = 0; round < 2 * BURST && refused === 0; round += 16) {
      const sockets = Array.from({ length: 16 }, () => new WebSocket(to.server.url))
      const ends = sockets.map(async (socket) => {
        const answered = once(socket, 'unexpected-response').then(() => refused++)
        await Promise.race([once(socket, 'open'), answered])
        if (socket.readyState === WebSocket.OPEN) socket.send(new Uint8Array(1))
        socket.on('error', () => undefined).terminate()
      })
      await Promise.all(ends)
    }
    assert.ok(refused > 0)
    assert.deepEqual([...reasons], ['handshakes'])
  })

  it('of tiny fragments closes the link', async () => {
    await using to = await listening()
    const socket = await opened(to.server.url)
    const closed = once(socket, 'close')
    for (let i = 0; i < 1000; i++) socket.send(new Uint8Array(0), { fin: false })
    assert.equal((await closed)[0], 1008)
    assert.equal(await codeOf(to.accepted[0]), 'unexpected_message')
  })

  it('of pings closes the link', async () => {
    await using to = await listening()
    const socket = await opened(to.server.url)
    for (let i = 0; i < 100; i++) socket.ping()
    assert.equal(await codeOf(to.accepted[0]), 'unexpected_message')
    socket.terminate()
  })

  it('of pings whose answers are not read closes the link', async () => {
    await using to = await listening()
    const socket = await rawSocket(to.server.port)
    socket.pause()
    const ping = Buffer.concat([Buffer.of(0x89, 0xfd, 0, 0, 0, 0), Buffer.alloc(125)])
    socket.write(Buffer.concat(Array.from({ length: 50_000 }, () => ping)))
    assert.equal(await codeOf(to.accepted[0]), 'unexpected_message')
    socket.destroy()
  })

  it('of pings between frames closes nothing, if there are few', async () => {
    await using to = await listening()
    const socket = await opened(to.server.url)
    for (let round = 0; round < 6; round++) {
      for (let i = 0; i < 20; i++) socket.ping()
      socket.send(Uint8Array.of(round))
      assert.deepEqual(await to.accepted[0]?.receive(), Uint8Array.of(round))
    }
    socket.terminate()
  })
})

describe('a frame that trickles', () => {
  it('loses its link, though bytes go on coming', async () => {
    await using to = await listening(brief({ stallSeconds: 0.1 }))
    const socket = await rawSocket(to.server.port)
    socket.write(Buffer.of(0x82, 0x81, 0, 0, 0, 0, 7)) // one whole frame
    assert.deepEqual(await to.accepted[0]?.receive(), Uint8Array.of(7))
    socket.write(Buffer.of(0x82, 0xfe, 0x20, 0, 0, 0, 0, 0)) // the head of one of 8 KiB
    const drip = setInterval(() => socket.write(Buffer.of(1)), 5)
    assert.equal(await codeOf(to.accepted[0]), 'link_stalled')
    clearInterval(drip)
    socket.destroy()
  })
})

describe('a peer that does not read', () => {
  it('loses its link when it takes nothing of what waits for it', async () => {
    await using to = await listening(brief({ stallSeconds: 0.1, firstFrameSeconds: 100 }))
    const socket = await rawSocket(to.server.port)
    socket.pause()
    const sends = Array.from({ length: 64 }, () => to.accepted[0]!.send(new Uint8Array(2 ** 20)))
    assert.equal(await codeOf(to.accepted[0]), 'link_stalled')
    socket.destroy()
    for (const sent of await Promise.allSettled(sends))
      if (sent.status === 'rejected') assert.equal(sent.reason.code, 'link_closed')
  })
})

describe('limits of the two directions', () => {
  it('may differ: who asks in few words may be sent much, and not send it', async () => {
    await using to = await listening({ ...LIMITS, maxReceivedBytes: 1000 })
    const near = await wsDialer.dial(to.server.url, LIMITS, new AbortController().signal)
    await near.send(new Uint8Array(1000))
    await to.accepted[0]?.receive()
    await to.accepted[0]?.send(new Uint8Array(2 ** 20))
    assert.equal((await near.receive())?.length, 2 ** 20)
    await near.send(new Uint8Array(1001))
    assert.equal(await codeOf(to.accepted[0]), 'frame_oversized')
  })
})
