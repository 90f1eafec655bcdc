import assert from 'node:assert/strict'
import { once } from 'node:events'
import { createServer, request } from 'node:http'
import type { AddressInfo } from 'node:net'
import { describe, it } from 'node:test'
import { HeadraceError } from '../../../shared/errors.ts'
import type { Link, LinkLimits } from '../../../shared/link/link.ts'
import { wsDialer } from '../../../shared/link/ws-link.ts'
import { attachLinks, type ListenOptions, listenLinks } from '../../../shared/link/ws-server.ts'

const LIMITS: LinkLimits = { maxFrameBytes: 2 ** 16, maxQueuedFrames: 4 }
const never = new AbortController().signal
const nobody = () => undefined

const options = (more: Partial<ListenOptions> = {}): ListenOptions => ({
  host: '127.0.0.1',
  port: 0,
  path: '/link',
  limits: LIMITS,
  onLink: nobody,
  ...more,
})

const dial = (url: string) => wsDialer.dial(url, LIMITS, never)

describe('a link server', () => {
  it('says where it listens', async () => {
    const server = await listenLinks(options())
    assert.ok(server.port > 0)
    assert.equal(server.url, `ws://127.0.0.1:${server.port}/link`)
    await server.close()
  })

  it('writes an IPv6 address as URLs want it', async (t) => {
    try {
      const server = await listenLinks(options({ host: '::1' }))
      assert.equal(server.url, `ws://[::1]:${server.port}/link`)
      await (await dial(server.url)).send(new Uint8Array(1))
      await server.close()
    } catch (error) {
      if (error instanceof HeadraceError && /EADDRNOTAVAIL|EAFNOSUPPORT/.test(error.message))
        return t.skip('no IPv6 on this machine')
      throw error
    }
  })

  it('refuses a port that is taken with bad_config', async () => {
    const first = await listenLinks(options())
    await assert.rejects(listenLinks(options({ port: first.port })), { code: 'bad_config', message: /EADDRINUSE/ })
    await first.close()
  })

  it('knows its peers by address', async () => {
    const accepted: Link[] = []
    const server = await listenLinks(options({ onLink: (link) => accepted.push(link) }))
    const link = await dial(server.url)
    assert.match(accepted[0]?.peer ?? '', /^127\.0\.0\.1:\d+$/)
    assert.equal(link.peer, server.url)
    await server.close()
  })

  it('refuses links beyond its limit with 503, and takes new ones when old ones are gone', async () => {
    const accepted: Link[] = []
    const server = await listenLinks(options({ maxLinks: 2, onLink: (link) => accepted.push(link) }))
    const links = [await dial(server.url), await dial(server.url)]
    await assert.rejects(dial(server.url), { code: 'dial_failed', message: /503/ })
    links[0]?.close()
    assert.equal(await accepted[0]?.receive(), undefined)
    await dial(server.url)
    await server.close()
  })

  it('closes its links in good order when it closes', async () => {
    const server = await listenLinks(options())
    const link = await dial(server.url)
    await server.close()
    assert.equal(await link.receive(), undefined)
    await assert.rejects(dial(server.url), { code: 'dial_failed' })
  })

  it('outlives a client that resets its connection in the handshake', async () => {
    const server = await listenLinks(options())
    const upgrade = request({
      port: server.port,
      path: '/other',
      headers: { connection: 'Upgrade', upgrade: 'websocket' },
    })
    upgrade.on('error', nobody)
    upgrade.end()
    const [response] = await once(upgrade, 'response')
    assert.equal(response.statusCode, 404)
    response.socket.resetAndDestroy()
    await (await dial(server.url)).send(new Uint8Array(1))
    await server.close()
  })
})

describe('routes beside the links', () => {
  const routes = {
    '/metrics': () => ({ type: 'text/plain; version=0.0.4', body: 'headrace_up 1\n' }),
    '/health': async () => ({ status: 503, type: 'application/json', body: '{"état":"starting"}' }),
    '/broken': () => {
      throw new HeadraceError('internal', 'secret')
    },
  }

  it('answer GET and HEAD by path', async () => {
    const server = await listenLinks(options({ routes }))
    const at = (path: string, method = 'GET') => fetch(`http://127.0.0.1:${server.port}${path}`, { method })
    const metrics = await at('/metrics?x=1')
    assert.equal(metrics.status, 200)
    assert.equal(metrics.headers.get('content-type'), 'text/plain; version=0.0.4')
    assert.equal(await metrics.text(), 'headrace_up 1\n')
    const health = await at('/health')
    assert.equal(health.status, 503)
    assert.equal(await health.text(), '{"état":"starting"}')
    assert.equal((await at('/metrics', 'HEAD')).status, 200)
    await server.close()
  })

  it('answer all else by status', async () => {
    const server = await listenLinks(options({ routes }))
    const status = async (path: string, method = 'GET') =>
      (await fetch(`http://127.0.0.1:${server.port}${path}`, { method })).status
    assert.equal(await status('/'), 404)
    assert.equal(await status('/toString'), 404)
    assert.equal(await status('/link'), 404)
    assert.equal(await status('/metrics', 'POST'), 405)
    const broken = await fetch(`http://127.0.0.1:${server.port}/broken`)
    assert.equal(broken.status, 500)
    assert.equal(await broken.text(), 'Internal Server Error\n')
    await server.close()
  })
})

describe('links attached to a server of somebody else', () => {
  it('leave its requests alone and take its upgrades', async () => {
    const accepted: Link[] = []
    const server = createServer((_, response) => response.end('mine'))
    const detach = attachLinks(server, { path: '/workers', limits: LIMITS, onLink: (link) => accepted.push(link) })
    await once(server.listen(0, '127.0.0.1'), 'listening')
    const { port } = server.address() as AddressInfo
    assert.equal(await (await fetch(`http://127.0.0.1:${port}/workers`)).text(), 'mine')
    const link = await dial(`ws://127.0.0.1:${port}/workers?from=here`)
    await accepted[0]?.send(Uint8Array.of(7))
    assert.deepEqual(await link.receive(), Uint8Array.of(7))
    await assert.rejects(dial(`ws://127.0.0.1:${port}/`), { code: 'dial_failed', message: /404/ })

    detach()
    assert.equal(await link.receive(), undefined)
    await assert.rejects(dial(`ws://127.0.0.1:${port}/workers`), { code: 'dial_failed', message: /503/ })
    server.close()
    server.closeAllConnections()
    await once(server, 'close')
  })
})
