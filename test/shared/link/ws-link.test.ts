import assert from 'node:assert/strict'
import { once } from 'node:events'
import { createServer, type Socket } from 'node:net'
import { describe, it } from 'node:test'
import { WebSocket } from 'ws'
import { HeadraceError } from '../../../shared/errors.ts'
import type { Link, LinkLimits } from '../../../shared/link/link.ts'
import { PATIENCE } from '../../../shared/link/link-watchdog.ts'
import { wsDialer } from '../../../shared/link/ws-link.ts'
import { type LinkServer, listenLinks } from '../../../shared/link/ws-server.ts'
import { linkContract } from '../../contract/link.contract.ts'

const LIMITS: LinkLimits = { maxFrameBytes: 2 ** 20, maxQueuedFrames: 8 }
const never = new AbortController().signal

interface Listening {
  readonly server: LinkServer
  readonly accepted: Link[]
}

async function listening(limits = LIMITS): Promise<Listening> {
  const accepted: Link[] = []
  const onLink = (link: Link) => accepted.push(link)
  return { accepted, server: await listenLinks({ host: '127.0.0.1', port: 0, path: '/link', limits, onLink }) }
}

linkContract('a link over ws', async (limits, farLimits) => {
  // Here whoever has been dialled may be the one that speaks, for as long as a test takes.
  const patience = { ...PATIENCE, firstFrameSeconds: Number.POSITIVE_INFINITY }
  const { server, accepted } = await listening({ ...(farLimits ?? limits), patience })
  const near = await wsDialer.dial(server.url, limits, never)
  const far = accepted[0]
  if (far === undefined) throw new HeadraceError('internal', 'dialled, but not accepted')
  return { near, far, release: () => server.close() }
})

describe('a frame received over ws', () => {
  it('has a buffer of its own, so that it is aligned and can be transferred', async () => {
    const { server, accepted } = await listening()
    const near = await wsDialer.dial(server.url, LIMITS, never)
    const sizes = [1, 100, 3000, 70_000, 500_000, 64]
    for (const size of sizes) await near.send(new Uint8Array(size).fill(size))
    for (const size of sizes) {
      const frame = await accepted[0]?.receive()
      assert.ok(frame)
      assert.equal(frame.byteOffset, 0)
      assert.equal(frame.buffer.byteLength, size)
      const { buffer } = structuredClone(frame, { transfer: [frame.buffer as ArrayBuffer] })
      assert.deepEqual(new Uint8Array(buffer), new Uint8Array(size).fill(size))
    }
    await server.close()
  })
})

describe('a peer that does not speak as agreed loses its link', () => {
  const cases: readonly [string, number, string, (socket: WebSocket) => void][] = [
    ['text', 4400, 'unexpected_message', (socket) => socket.send('hello')],
    ['a message in more than 16 fragments', 1008, 'unexpected_message', fragments(17)],
    ['a frame above the limit', 1009, 'frame_oversized', (socket) => socket.send(new Uint8Array(2 ** 20 + 1))],
    ['a close code of no meaning', 3000, 'link_closed', (socket) => socket.close(3000, 'worker_failed')],
    ['a reason that is no error code', 4000, 'link_closed', (socket) => socket.close(4000, 'bored')],
    ['a vanishing socket', 1006, 'link_closed', (socket) => socket.terminate()],
  ]
  for (const [what, closeCode, code, misbehave] of cases)
    it(`for ${what}`, async () => {
      const { server, accepted } = await listening()
      const socket = new WebSocket(server.url)
      await once(socket, 'open')
      const closed = once(socket, 'close')
      misbehave(socket)
      await assert.rejects(accepted[0]!.receive(), { name: 'HeadraceError', code })
      assert.equal((await closed)[0], closeCode)
      assert.equal(accepted[0]!.closed.reason.code, code)
      await server.close()
    })

  it('but may send a message in 16 fragments', async () => {
    const { server, accepted } = await listening()
    const socket = new WebSocket(server.url)
    await once(socket, 'open')
    fragments(16)(socket)
    assert.deepEqual(await accepted[0]?.receive(), new Uint8Array(16))
    await server.close()
  })
})

describe('compression', () => {
  it('is not agreed to, whoever offers it', async () => {
    const { server } = await listening()
    const socket = new WebSocket(server.url, { perMessageDeflate: true })
    await once(socket, 'open')
    assert.equal(socket.extensions, '')
    await server.close()
  })
})

describe('dialling fails with dial_failed', () => {
  const fails = (url: string, message: RegExp) =>
    assert.rejects(wsDialer.dial(url, LIMITS, never), { name: 'HeadraceError', code: 'dial_failed', message })

  it('where nobody listens', async () => {
    const { server } = await listening()
    await server.close()
    await fails(server.url, /ECONNREFUSED/)
  })

  it('where HTTP has no such path', async () => {
    const { server } = await listening()
    await fails(`ws://127.0.0.1:${server.port}/other`, /404/)
    await server.close()
  })

  it('for what is no address', async () => {
    await fails('not an address', /Invalid URL/)
    await fails('ftp://127.0.0.1/link', /protocol/)
  })

  it('after 5 s without an answer', async () => {
    const { url, close } = await silence()
    await fails(url, /no answer within 5 s/)
    await close()
  })
})

describe('dialling can be aborted', () => {
  it('before it starts', async () => {
    await assert.rejects(wsDialer.dial('ws://127.0.0.1:1/link', LIMITS, AbortSignal.abort()), { code: 'cancelled' })
  })

  it('while it waits, with the reason of who aborts', async () => {
    const { url, connected, close } = await silence()
    const abort = new AbortController()
    const dialling = wsDialer.dial(url, LIMITS, abort.signal)
    await connected
    abort.abort(new HeadraceError('shutting_down', 'enough'))
    await assert.rejects(dialling, { code: 'shutting_down' })
    await close()
  })

  it('but not any more once the link is there', async () => {
    const { server, accepted } = await listening()
    const abort = new AbortController()
    const near = await wsDialer.dial(server.url, LIMITS, abort.signal)
    abort.abort()
    await near.send(Uint8Array.of(1))
    assert.deepEqual(await accepted[0]?.receive(), Uint8Array.of(1))
    await server.close()
  })
})

/** A message of one byte a fragment. */
function fragments(count: number): (socket: WebSocket) => void {
  return (socket) => {
    for (let left = count; left > 0; left--) socket.send(new Uint8Array(1), { fin: left === 1 })
  }
}

/** A server that accepts connections and never says a word. */
async function silence(): Promise<{ url: string; connected: Promise<unknown>; close: () => Promise<unknown> }> {
  const sockets: Socket[] = []
  const server = createServer((socket) => sockets.push(socket.on('error', () => socket.destroy())))
  const connected = once(server, 'connection')
  await once(server.listen(0, '127.0.0.1'), 'listening')
  const address = server.address()
  assert.ok(typeof address === 'object' && address !== null)
  return {
    url: `ws://127.0.0.1:${address.port}/link`,
    connected,
    close: () => {
      for (const socket of sockets) socket.destroy()
      return once(server.close(), 'close')
    },
  }
}
