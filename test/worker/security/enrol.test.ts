import assert from 'node:assert/strict'
import { once } from 'node:events'
import { stat, writeFile } from 'node:fs/promises'
import type { AddressInfo } from 'node:net'
import { join } from 'node:path'
import { after, before, describe, it } from 'node:test'
import { createServer } from 'node:tls'
import type { Authority } from '../../../coordinator/security/authority.ts'
import { realClock } from '../../../shared/link/real-clock.ts'
import { createLog } from '../../../shared/log.ts'
import { askOver, bodyOf } from '../../../shared/security/exchange.ts'
import { enrol, renewOwn } from '../../../worker/security/enrol.ts'
import { OwnIdentity } from '../../../worker/security/own-identity.ts'
import { startApi } from '../../support/api.ts'
import { type CertifiedCluster, certifiedCluster, certifiedIn, today } from '../../support/certified.ts'
import { ManualClock } from '../../support/manual-clock.ts'
import { temporaryFolder } from '../../support/temporary.ts'

const never = new AbortController().signal
const log = createLog('test', 'silent')

describe('joining a cluster', () => {
  let cluster: CertifiedCluster
  let authority: Authority
  let api: Awaited<ReturnType<typeof startApi>>
  let base: string
  before(async () => {
    cluster = await certifiedCluster()
    authority = await cluster.authority()
    api = await startApi(undefined, { authority })
    base = `https://127.0.0.1:${api.port}`
  })
  after(async () => {
    await api[Symbol.asyncDispose]()
    await cluster[Symbol.asyncDispose]()
  })

  const joined = async (of: Parameters<CertifiedCluster['token']>[0], name?: string) =>
    certifiedIn((await enrol(base, { token: await cluster.token(of), name }, never)).own)

  it('gives a certificate of the token’s role, for the name of the token, of the joiner’s choice, or a new one', async () => {
    const named = await joined({ name: 'kitchen', role: 'decode' })
    assert.equal(`${named.cluster} ${named.role} ${named.name}`, `${cluster.folder.cluster} decode kitchen`)
    assert.equal((await joined({}, 'attic')).name, 'attic')
    assert.match((await joined({})).name, /^prefill-[0-9a-f]{6}$/)
    const kept = await cluster.folder.identities.find('kitchen')
    assert.equal(kept?.key, named.key)
  })

  it('takes a token as often as it says, also when all come at once', async () => {
    const token = await cluster.token({ uses: 2 })
    const tries = await Promise.allSettled([0, 1, 2, 3].map(() => enrol(base, { token }, never)))
    assert.deepEqual(tries.map(({ status }) => status).sort(), ['fulfilled', 'fulfilled', 'rejected', 'rejected'])
    await assert.rejects(enrol(base, { token }, never), { code: 'token_refused', message: /is used/ })
    const [record] = (await cluster.folder.tokens.all()).filter(({ id }) => token.includes(id))
    assert.equal(record?.used, 2)
  })

  it('is refused with a token that has ended, is revoked, or has another secret', async () => {
    const refused = { code: 'token_refused' }
    const counted = async () => {
      const { values } = await api.metrics.joinsRefused.get()
      return values.find(({ labels }) => labels.code === 'token_refused')?.value ?? 0
    }
    const before = await counted()
    await assert.rejects(enrol(base, { token: await cluster.token({ expiresAt: today() - 1 }) }, never), refused)
    assert.equal(await counted(), before + 1)
    const token = await cluster.token()
    const [version, pin, id] = token.split('.')
    await assert.rejects(enrol(base, { token: `${version}.${pin}.${id}.${'A'.repeat(22)}` }, never), refused)
    assert.ok(await cluster.folder.tokens.remove(id!))
    await assert.rejects(enrol(base, { token }, never), refused)
    assert.equal(await cluster.folder.tokens.remove(id!), false)
  })

  it('is refused under a name that somebody has, unless the token is for it: then that one is out', async () => {
    const first = await joined({}, 'cellar')
    await assert.rejects(joined({}, 'cellar'), { code: 'name_taken' })
    const second = await joined({ name: 'cellar' })
    assert.notEqual(second.key, first.key)
    const out = (who: typeof first) => authority.membership.denied.some(({ key }) => key === who.key)
    assert.deepEqual([first, second].map(out), [true, false])
  })

  it('tells nothing to a server that has not the key which the token pins', async () => {
    await using other = await certifiedCluster()
    const { certificate, key } = await other.credentials({ role: 'coordinator', name: 'coordinator' })
    const heard: string[] = []
    const server = createServer({ cert: `${certificate}${other.folder.authority.certificate}`, key }, (socket) => {
      socket.on('data', (bytes) => heard.push(String(bytes)))
      socket.on('error', () => undefined)
    })
    await once(server.listen(0, '127.0.0.1'), 'listening')
    const { port } = server.address() as AddressInfo
    const token = await cluster.token()
    await assert.rejects(enrol(`https://127.0.0.1:${port}`, { token }, never), {
      code: 'certificate_refused',
      message: /nothing was sent/,
    })
    // One that shows the right authority's certificate, but whose own is not of it.
    const liar = createServer({ cert: `${certificate}${cluster.folder.authority.certificate}`, key }, (socket) => {
      socket.on('data', (bytes) => heard.push(String(bytes)))
      socket.on('error', () => undefined)
    })
    await once(liar.listen(0, '127.0.0.1'), 'listening')
    const at = liar.address() as AddressInfo
    await assert.rejects(enrol(`https://127.0.0.1:${at.port}`, { token }, never), { code: 'certificate_refused' })
    assert.deepEqual(heard, [])
    for (const one of [server, liar]) one.close()
  })

  it('tells nothing to a worker that poses as the coordinator', async () => {
    const heard: string[] = []
    const { certificate, key } = await cluster.credentials()
    const cert = `${certificate}${cluster.folder.authority.certificate}`
    const server = createServer({ cert, key }, (socket) => {
      socket.on('data', (bytes) => heard.push(String(bytes)))
      socket.on('error', () => undefined)
    })
    await once(server.listen(0, '127.0.0.1'), 'listening')
    const { port } = server.address() as AddressInfo
    await assert.rejects(enrol(`https://127.0.0.1:${port}`, { token: await cluster.token() }, never), {
      code: 'certificate_refused',
      message: /is not the coordinator/,
    })
    assert.deepEqual(heard, [])
    server.close()
  })

  it('is given up by the worker if the coordinator begins an answer and does not go on, or tells no member', async () => {
    const { certificate, key } = await cluster.credentials({ role: 'coordinator', name: 'coordinator' })
    const cert = `${certificate}${cluster.folder.authority.certificate}`
    const answers = ['HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\n{', 'HTTP/1.1 200 OK\r\n\r\n{"certificate":"none"}']
    let answer = answers[0]!
    const server = createServer({ cert, key }, (socket) => {
      socket.on('error', () => undefined)
      socket.once('data', () => (answer === answers[0] ? socket.write(answer) : socket.end(answer)))
    })
    await once(server.listen(0, '127.0.0.1'), 'listening')
    const url = `https://127.0.0.1:${(server.address() as AddressInfo).port}`
    const of = { token: await cluster.token(), answerSeconds: 0.2 }
    await assert.rejects(enrol(url, of, never), { code: 'dial_failed' })
    answer = answers[1]!
    await assert.rejects(enrol(url, { token: of.token }, never), { code: 'certificate_refused' })
    server.close()
  })

  it('is renewed with the old certificate, until that is denied', async () => {
    const member = await cluster.member({ name: 'w7' })
    const own = await renewOwn(base, cluster.folder.authority.certificate, member, never)
    assert.equal(certifiedIn(own).name, 'w7')
    await cluster.folder.denied.add({ name: 'w7', at: today() + 1, until: today() + 3600 })
    await assert.rejects(renewOwn(base, cluster.folder.authority.certificate, member, never), {
      code: 'identity_revoked',
    })
  })

  it('does not renew, or give the model away, without a certificate', async () => {
    const ca = cluster.folder.authority.certificate
    for (const [method, path] of [
      ['POST', '/v1/renew'],
      ['GET', '/v1/model/manifest'],
    ] as const) {
      const headers = { 'content-type': 'application/json' }
      const body = method === 'POST' ? { body: '{"request":"x"}' } : {}
      const answer = await askOver(`${base}${path}`, { ca }, { method, headers, signal: never, ...body })
      const text = await bodyOf(answer, 10_000)
      if (path === '/v1/renew') assert.match(text, /"code":"certificate_refused"/)
      assert.ok([403, 404].includes(answer.statusCode ?? 0))
    }
  })

  it('is kept by a worker in a file of its own, and found there the next time', async () => {
    await using temporary = await temporaryFolder()
    const folder = join(temporary.path, 'state')
    const time = { clock: realClock, today, log }
    await assert.rejects(OwnIdentity.open({ folder, base, token: undefined, name: undefined, ...time }, never), {
      code: 'token_refused',
      message: /holds no identity yet/,
    })
    const token = await cluster.token({ role: 'decode' })
    const first = await OwnIdentity.open({ folder, base, token, name: 'shed', ...time }, never)
    assert.equal(first.role, 'decode')
    assert.equal((await stat(join(folder, 'identity.json'))).mode & 0o777, 0o600)
    const again = await OwnIdentity.open({ folder, base, token: undefined, name: undefined, ...time }, never)
    assert.deepEqual(again.certified, first.certified)
    const late = { ...time, today: () => today() + 3601 }
    await assert.rejects(OwnIdentity.open({ folder, base, token: undefined, name: undefined, ...late }, never), {
      code: 'token_refused',
      message: /has ended/,
    })
    await writeFile(join(folder, 'identity.json'), '{}')
    await assert.rejects(OwnIdentity.open({ folder, base, token: undefined, name: undefined, ...time }, never), {
      code: 'state_failed',
    })
  })

  it('is renewed when two thirds of its life are over, with a new key', async () => {
    await using temporary = await temporaryFolder()
    const clock = new ManualClock()
    const start = today()
    const of = { clock, today: () => start + clock.now(), log }
    const token = await cluster.token()
    const identity = await OwnIdentity.open({ folder: temporary.path, base, token, name: 'barn', ...of }, never)
    const first = identity.certified
    const over = new AbortController()
    const renewed = new Promise<void>((resolve) => {
      void identity.keep(resolve, over.signal)
    })
    clock.advance((first.expiresAt - first.issuedAt) * (2 / 3) + 1)
    await renewed
    over.abort()
    assert.equal(identity.certified.name, 'barn')
    assert.notEqual(identity.certified.key, first.key)
    const kept = await OwnIdentity.open(
      { folder: temporary.path, base, token: undefined, name: undefined, clock: realClock, today, log },
      never,
    )
    assert.equal(kept.certified.key, identity.certified.key)
  })

  it('is put off after too many failures from one address', async () => {
    await using fresh = await certifiedCluster()
    const strict = await fresh.authority({ clock: new ManualClock() })
    const bad = { token: `v1.${fresh.folder.authorityKey}.00000000.${'A'.repeat(22)}`, request: 'x' }
    for (let i = 0; i < 10; i++) await assert.rejects(strict.join('10.0.0.1', bad), { code: 'token_refused' })
    await assert.rejects(strict.join('10.0.0.1', bad), (error: { code: string; details: object }) => {
      assert.equal(error.code, 'join_throttled')
      assert.deepEqual(error.details, { retryAfterSeconds: 60 })
      return true
    })
    await assert.rejects(strict.join('10.0.0.2', bad), { code: 'token_refused' })
  })
})
