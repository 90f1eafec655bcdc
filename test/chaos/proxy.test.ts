import assert from 'node:assert/strict'
import { once } from 'node:events'
import { type AddressInfo, createServer, connect as dial, type Socket } from 'node:net'
import { it } from 'node:test'
import { FaultyProxy } from './proxy.ts'

const never = (): AbortSignal => new AbortController().signal

/** A server that answers what it hears, with a proxy before it. */
async function withEcho(work: (proxy: FaultyProxy, client: Socket, port: number) => Promise<void>): Promise<void> {
  const echo = createServer((socket) => {
    socket.on('error', () => socket.destroy())
    socket.pipe(socket)
  })
  echo.listen(0, '127.0.0.1')
  await once(echo, 'listening')
  const { port } = echo.address() as AddressInfo
  const proxy = await FaultyProxy.open('127.0.0.1', () => ({ host: '127.0.0.1', port }))
  const client = dial({ host: '127.0.0.1', port: proxy.port })
  client.on('error', () => undefined)
  try {
    await once(client, 'connect')
    await work(proxy, client, port)
  } finally {
    client.destroy()
    await proxy.close()
    echo.close()
  }
}

async function heard(client: Socket): Promise<string> {
  const [piece] = (await once(client, 'data')) as [Buffer]
  return String(piece)
}

it('carries bytes both ways, and the end of them', () =>
  withEcho(async (_proxy, client) => {
    client.write('there and back')
    assert.equal(await heard(client), 'there and back')
    client.end()
    client.resume()
    await once(client, 'end')
  }))

it('resets every connection at a cut, and takes new ones after it', () =>
  withEcho(async (proxy, client) => {
    client.write('?')
    await heard(client)
    assert.equal(proxy.connections, 1)
    proxy.cut()
    await assert.rejects(once(client, 'close'), { code: 'ECONNRESET' })
    const again = dial({ host: '127.0.0.1', port: proxy.port })
    again.write('again')
    assert.equal(await heard(again), 'again')
    again.destroy()
  }))

it('holds one direction back, and not the other', () =>
  withEcho(async (proxy, client, port) => {
    client.write('before')
    await heard(client)
    proxy.stall('out')
    let arrived = ''
    client.on('data', (piece) => {
      arrived += String(piece)
    })
    client.write('held')
    // Whoever asks past the proxy has long been answered.
    const direct = dial({ host: '127.0.0.1', port })
    for (let i = 0; i < 20; i++) {
      direct.write('?')
      await heard(direct)
    }
    direct.destroy()
    assert.equal(arrived, '')
    proxy.resume('out')
    await once(client, 'data')
    assert.equal(arrived, 'held')
  }))

it('damages one piece, once', () =>
  withEcho(async (proxy, client) => {
    const damage = (piece: Buffer): Buffer => Buffer.from(piece.map((byte) => byte ^ 1))
    const done = proxy.damageNext('out', damage, never())
    client.write('aaaa')
    assert.equal(await heard(client), '````')
    assert.equal(await done, true)
    client.write('aaaa')
    assert.equal(await heard(client), 'aaaa')
  }))

it('damages nothing after the time for it is over', () =>
  withEcho(async (proxy, client) => {
    const over = new AbortController()
    const done = proxy.damageNext('in', () => Buffer.from('!'), over.signal)
    over.abort()
    assert.equal(await done, false)
    client.write('a')
    assert.equal(await heard(client), 'a')
  }))
