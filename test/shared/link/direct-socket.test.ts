import assert from 'node:assert/strict'
import { once } from 'node:events'
import { type AddressInfo, createServer, type Socket } from 'node:net'
import { describe, it, type TestContext } from 'node:test'
import { DirectSocket } from '../../../shared/link/direct-socket.ts'

/** Longer than a socket that is read directly lets pieces collect. */
const COLLECTED_MS = 10

/**
 * Both ends of a connection whose reader says of every piece that the frame is not whole, and how many bytes it has. What
 * comes belongs into `frame`, as long as that has room.
 */
async function connected(
  t: TestContext,
  {
    onPiece = () => undefined,
    frame = new Uint8Array(0),
  }: { onPiece?: (client: Socket) => void; frame?: Uint8Array } = {},
) {
  const server = createServer()
  t.after(() => server.close())
  await once(server.listen(0, '127.0.0.1'), 'listening')
  const direct = new DirectSocket()
  const client = direct.connect('127.0.0.1', (server.address() as AddressInfo).port)
  t.after(() => client.destroy())
  const [sender] = (await once(server, 'connection')) as [Socket]
  t.after(() => sender.destroy())
  const read = { bytes: 0, inPlace: 0 }
  let heard: () => void = () => undefined
  client.once('data', () => {
    direct.divert({
      get rest() {
        return read.inPlace < frame.length ? frame.subarray(read.inPlace) : undefined
      },
      read: (bytes) => {
        read.bytes += bytes.length
        if (bytes.buffer === frame.buffer) read.inPlace += bytes.length
        onPiece(client)
        heard()
        return true
      },
    })
    heard()
  })
  const send = async (bytes: string | Uint8Array): Promise<void> => {
    const taken = new Promise<void>((resolve) => {
      heard = resolve
    })
    sender.write(bytes)
    await taken
  }
  await send('HTTP/1.1 101 Switching Protocols\r\n\r\n')
  return { client, read, send }
}

describe('a socket that is read directly', () => {
  it('reads on when the pieces of a frame had a moment to collect, and not before', async (t) => {
    t.mock.timers.enable({ apis: ['setTimeout'] })
    const { client, read, send } = await connected(t)
    const resumed = t.mock.method(client, 'resume')
    await send(new Uint8Array(100))
    assert.equal(resumed.mock.callCount(), 0)
    const next = send(new Uint8Array(50))
    t.mock.timers.tick(COLLECTED_MS)
    assert.equal(resumed.mock.callCount(), 1)
    await next
    assert.equal(read.bytes, 150)
  })

  it('stays paused if it was paused in the meantime', async (t) => {
    t.mock.timers.enable({ apis: ['setTimeout'] })
    const { client, send } = await connected(t, { onPiece: (socket) => socket.pause() })
    const resumed = t.mock.method(client, 'resume')
    await send(new Uint8Array(100))
    t.mock.timers.tick(COLLECTED_MS)
    assert.equal(resumed.mock.callCount(), 0)
    assert.equal(client.isPaused(), true)
  })

  it('is read to where the reader says, in memory that threads share too', async (t) => {
    const frame = new Uint8Array(new SharedArrayBuffer(3 * 2 ** 16))
    const sent = Uint8Array.from({ length: 2 * frame.length }, (_, i) => 1 + (i % 251))
    let whole: () => void = () => undefined
    const arrived = new Promise<void>((resolve) => {
      whole = resolve
    })
    const { read, send } = await connected(t, { frame, onPiece: () => read.bytes === sent.length && whole() })
    await send(sent)
    await arrived
    assert.equal(read.inPlace, frame.length)
    // The first piece was on its way before anybody could say where it belongs.
    const skipped = sent.findIndex((_, i) => frame.every((byte, at) => byte === sent[i + at]))
    assert.ok(skipped >= 0 && skipped <= 2 ** 14, `${skipped}`)
  })
})
