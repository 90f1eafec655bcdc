import assert from 'node:assert/strict'
import { once } from 'node:events'
import { connect as connectPlain } from 'node:net'
import { after, before, describe, it } from 'node:test'
import { connect, type TLSSocket } from 'node:tls'
import type { Link, LinkLimits } from '../../../shared/link/link.ts'
import { wsDialer, wsDialerWith } from '../../../shared/link/ws-link.ts'
import { listenLinks } from '../../../shared/link/ws-server.ts'
import type { Expected, Membership } from '../../../shared/security/membership.ts'
import { type CertifiedCluster, certifiedCluster, certifiedIn, today } from '../../support/certified.ts'
import { ManualClock } from '../../support/manual-clock.ts'

const LIMITS: LinkLimits = { maxFrameBytes: 2 ** 20, maxQueuedFrames: 4 }
const never = new AbortController().signal

const dial = (url: string, secure: Membership | undefined, expected: Expected = { worker: 'w1' }) =>
  wsDialerWith((length) => new Uint8Array(length), secure).dial(url, LIMITS, never, expected)

/** A worker that listens, and the links that were made to it. */
async function listener(secure: Membership) {
  const links: Link[] = []
  const refused: string[] = []
  const told = {
    onLink: (link: Link) => void links.push(link),
    onRefused: (reason: string) => void refused.push(reason),
  }
  const server = await listenLinks({ host: '127.0.0.1', port: 0, path: '/link', limits: LIMITS, secure, ...told })
  return { server, links, refused, url: server.url, [Symbol.asyncDispose]: () => server.close() }
}

/** Resolves with the code of what ended the link. */
async function endOf(link: Link): Promise<string> {
  if (!link.closed.aborted) await once(link.closed, 'abort')
  return link.closed.reason.code
}

describe('links of a cluster with certificates', () => {
  let cluster: CertifiedCluster
  let other: CertifiedCluster
  before(async () => {
    cluster = await certifiedCluster()
    other = await certifiedCluster()
  })
  after(async () => {
    await cluster[Symbol.asyncDispose]()
    await other[Symbol.asyncDispose]()
  })

  it('carry frames both ways, and each end knows the other', async () => {
    await using at = await listener(await cluster.member())
    const link = await dial(at.url, await cluster.member({ role: 'decode', name: 'd1' }))
    const [accepted] = at.links
    assert.equal(at.url.slice(0, 6), 'wss://')
    assert.equal(`${link.identity?.role} ${link.identity?.name}`, 'prefill w1')
    assert.equal(`${accepted?.identity?.role} ${accepted?.identity?.name}`, 'decode d1')
    const frame = Uint8Array.from({ length: 300_000 }, (_, i) => i)
    await link.send(frame)
    assert.deepEqual(await accepted?.receive(), frame)
    await accepted?.send(frame)
    assert.deepEqual(await link.receive(), frame)
  })

  it('are for members of this cluster alone', async () => {
    await using at = await listener(await cluster.member())
    // What a stranger would do: trust whoever answers.
    const anybody = connect({ port: at.server.port, host: '127.0.0.1', rejectUnauthorized: false })
    await once(anybody, 'secureConnect')
    anybody.write(
      'GET /link HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n',
    )
    const [answer] = await once(anybody, 'data')
    assert.match(String(answer), /^HTTP\/1.1 403 .*\r\nheadrace-refusal: certificate_refused\r\n/)
    const plain = connectPlain(at.server.port, '127.0.0.1')
    plain.on('error', () => undefined) // it may be told by a reset
    plain.write('GET /link HTTP/1.1\r\n\r\n')
    await once(plain.resume(), 'close')
    assert.deepEqual(at.refused, ['certificate', 'tls'])

    const stranger = await other.member({ role: 'decode', name: 'd1' })
    await assert.rejects(dial(at.url, stranger), { code: 'certificate_refused', message: /another cluster/ })
    // The stranger's certificate, with the trust of a member: what is left when only the listener looks.
    const { certificate, key } = await other.credentials()
    const socket = connect({
      port: at.server.port,
      host: '127.0.0.1',
      cert: certificate,
      key,
      rejectUnauthorized: false,
    })
    await once(socket, 'secureConnect')
    socket.write(
      'GET /link HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n',
    )
    assert.match(String((await once(socket, 'data'))[0]), /^HTTP\/1.1 403 /)
    assert.equal(at.links.length, 0)
  })

  it('are not for the coordinator’s certificate, which no worker dials with', async () => {
    await using at = await listener(await cluster.member())
    const coordinator = await cluster.member({ role: 'coordinator', name: 'coordinator' })
    await assert.rejects(dial(at.url, coordinator), { code: 'certificate_refused' })
  })

  it('go to nobody but whom they are meant for', async () => {
    await using at = await listener(await cluster.member({ name: 'w2' }))
    const secure = await cluster.member({ role: 'decode', name: 'd1' })
    await assert.rejects(dial(at.url, secure, { worker: 'w1' }), {
      code: 'certificate_refused',
      message: /prefill w2 answers where w1 should/,
    })
    await assert.rejects(dial(at.url, secure, 'coordinator'), { code: 'certificate_refused' })
    assert.equal(at.links.length, 0)
    assert.equal((await dial(at.url, secure, 'member')).identity?.name, 'w2')
  })

  it('have TLS or are not made', async () => {
    await using at = await listener(await cluster.member())
    await assert.rejects(dial(at.url.replace('wss', 'ws'), await cluster.member()), { code: 'certificate_refused' })
    await assert.rejects(wsDialer.dial(at.url, LIMITS, never), { code: 'certificate_refused' })
    await assert.rejects(wsDialer.dial(at.url.replace('wss', 'ws'), LIMITS, never), { code: 'dial_failed' })
  })

  it('say what is wrong with a certificate that has ended, or has not begun', async () => {
    const show = async (from: number, seconds: number) => {
      const secure = await cluster.member()
      secure.show(await cluster.credentials({}, new Date(Date.now() + from * 1000), seconds))
      return listener(secure)
    }
    const secure = await cluster.member({ role: 'decode', name: 'd1' })
    await using ended = await show(-7200, 3600)
    await assert.rejects(dial(ended.url, secure), { code: 'certificate_refused', message: /has ended/ })
    await using early = await show(3600, 3600)
    await assert.rejects(dial(early.url, secure), { code: 'certificate_refused', message: /begins later; the clocks/ })
    // Less than five minutes early is no matter.
    await using skewed = await show(200, 3600)
    await dial(skewed.url, secure)
  })

  it('refuse a dialler whose certificate has ended', async () => {
    await using at = await listener(await cluster.member())
    const late = await cluster.member()
    late.show(await cluster.credentials({ role: 'decode', name: 'd1' }, new Date(Date.now() - 7200_000), 3600))
    await assert.rejects(dial(at.url, late), { code: 'certificate_refused' })
    assert.equal(at.links.length, 0)
  })

  it('close when the certificate of the other end ends, on both sides', async () => {
    const [near, far] = [new ManualClock(), new ManualClock()]
    const start = today()
    const timed = (clock: ManualClock) => ({ clock, today: () => start + clock.now() })
    await using at = await listener(await cluster.member({}, timed(near)))
    const link = await dial(at.url, await cluster.member({ role: 'decode', name: 'd1' }, timed(far)))
    near.advance(3590)
    far.advance(3590)
    await new Promise((resolve) => setImmediate(resolve))
    assert.ok(!link.closed.aborted && !at.links[0]!.closed.aborted)
    near.advance(15)
    assert.equal(await endOf(at.links[0]!), 'certificate_refused')
    assert.equal(await endOf(link), 'certificate_refused')

    const second = await dial(at.url, await cluster.member({ role: 'decode', name: 'd1' }, timed(far)))
    far.advance(15)
    assert.equal(await endOf(second), 'certificate_refused')
  })

  it('stay when the certificate has been renewed in time', async () => {
    const clock = new ManualClock()
    const start = today()
    const secure = await cluster.member({}, { clock, today: () => start + clock.now() })
    await using at = await listener(secure)
    const dialler = await cluster.credentials({ role: 'decode', name: 'd1' })
    const member = await cluster.member()
    member.show(dialler)
    const link = await dial(at.url, member)
    const renewed = await cluster.credentials({ role: 'decode', name: 'd1' }, new Date(), 7200)
    secure.extend(certifiedIn(renewed))
    clock.advance(3605)
    await clock.sleeping(certifiedIn(renewed).expiresAt - start - clock.now())
    assert.ok(!link.closed.aborted)
    clock.advance(3600)
    assert.equal(await endOf(link), 'certificate_refused')
  })

  it('are closed at once when the other end is denied, and not made again', async () => {
    const secure = await cluster.member()
    await using at = await listener(secure)
    const member = await cluster.member({ role: 'decode', name: 'd1' })
    const bystander = await cluster.member({ role: 'decode', name: 'd2' })
    const [link, beside] = [await dial(at.url, member), await dial(at.url, bystander)]
    secure.deny([{ name: 'd1', at: today(), until: today() + 3600 }])
    assert.equal(await endOf(link), 'identity_revoked')
    assert.ok(!beside.closed.aborted)
    await assert.rejects(dial(at.url, member), { code: 'identity_revoked' })

    bystander.deny([{ name: 'w1', at: today(), until: today() + 3600 }])
    assert.equal(await endOf(beside), 'identity_revoked')
    await assert.rejects(dial(at.url, bystander), { code: 'identity_revoked' })
  })

  it('never take a session up again', async () => {
    await using at = await listener(await cluster.member())
    const { certificate, key } = await cluster.credentials({ role: 'decode', name: 'd1' })
    const ca = cluster.folder.authority.certificate
    const options = {
      port: at.server.port,
      host: '127.0.0.1',
      ca,
      cert: certificate,
      key,
      checkServerIdentity: () => undefined,
    }
    const first = connect(options)
    const sessions: Buffer[] = []
    first.on('session', (session) => sessions.push(session))
    const ask = async (socket: TLSSocket) => {
      socket.write('GET /health HTTP/1.1\r\nHost: x\r\n\r\n')
      await once(socket, 'data')
    }
    await once(first, 'secureConnect')
    // A ticket would have come before the answer.
    await ask(first)
    const [session] = [...sessions, first.getSession()!]
    const second = connect({ ...options, session })
    await once(second, 'secureConnect')
    const reused = second.isSessionReused()
    for (const socket of [first, second]) socket.destroy()
    assert.equal(reused, false)
  })
})
