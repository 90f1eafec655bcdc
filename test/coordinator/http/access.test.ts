import assert from 'node:assert/strict'
import { once } from 'node:events'
import { connect } from 'node:net'
import { join } from 'node:path'
import { describe, it } from 'node:test'
import OpenAI from 'openai'
import { pino } from 'pino'
import { type AccessPolicy, OPEN_ACCESS } from '../../../coordinator/http/access.ts'
import { createKey } from '../../../coordinator/keys/api-key.ts'
import { changeKeys, type KeyLimits } from '../../../coordinator/keys/key-file.ts'
import { KeyRing } from '../../../coordinator/keys/key-ring.ts'
import { HeadraceError } from '../../../shared/errors.ts'
import { allEvents, startApi, tokenizer } from '../../support/api.ts'
import { ManualClock } from '../../support/manual-clock.ts'
import { hangsAfter, planned, type Script, writes } from '../../support/scripted-runs.ts'
import { temporaryFolder } from '../../support/temporary.ts'

const CHAT = '/v1/chat/completions'
const ask = { model: 'logbook-7m', messages: [{ role: 'user', content: 'Q' }] }
const hello = writes([...tokenizer.encode('hello'), 4])
const live = () => new AbortController().signal

/** The API behind a key file with one key. */
async function startGuarded(script: Script = hello, limits: KeyLimits = {}, changes: Partial<AccessPolicy> = {}) {
  const folder = await temporaryFolder()
  const file = join(folder.path, 'keys.json')
  const { id, key, sha256 } = createKey()
  await changeKeys(file, () => [{ id, name: 'test', sha256, created: '2026-01-01', limits }], live())
  const clock = new ManualClock()
  const keys = await KeyRing.open(file, clock, pino({ level: 'silent' }))
  const api = await startApi(script, { clock, access: { ...OPEN_ACCESS, metrics: 'key', keys, ...changes } })
  const withKey = { authorization: `Bearer ${key}` }
  return {
    ...api,
    clock,
    file,
    id,
    key,
    withKey,
    ask: (headers: Readonly<Record<string, string>> = withKey, body: object = ask) =>
      api.post(CHAT, body, undefined, headers),
    [Symbol.asyncDispose]: async () => {
      await api[Symbol.asyncDispose]()
      await folder[Symbol.asyncDispose]()
    },
  }
}

const errorOf = async (response: Response) =>
  ((await response.json()) as { error: { code: string; message: string; type: string } }).error

describe('an API with keys', () => {
  it('answers who has one, also by the official client', async () => {
    await using api = await startGuarded()
    assert.equal((await api.ask()).status, 200)
    const client = new OpenAI({ baseURL: `${api.url}/v1`, apiKey: api.key, maxRetries: 0 })
    assert.equal((await client.models.list()).data.length, 1)
  })

  it('refuses who has none, a wrong one or half of one, in OpenAI’s shape and before the body is read', async () => {
    await using api = await startGuarded()
    const wrong = `${api.key.slice(0, -1)}${api.key.endsWith('A') ? 'B' : 'A'}`
    for (const authorization of [
      '',
      'Bearer ',
      `Bearer ${wrong}`,
      `Bearer ${createKey().key}`,
      `Basic ${api.key}`,
      api.key,
    ]) {
      const response = await api.ask({ authorization })
      assert.equal(response.status, 401, authorization)
      assert.equal(response.headers.get('www-authenticate'), 'Bearer')
      const error = await errorOf(response)
      assert.deepEqual([error.code, error.type], ['invalid_api_key', 'invalid_request_error'])
    }
    await assert.rejects(
      new OpenAI({ baseURL: `${api.url}/v1`, apiKey: wrong, maxRetries: 0 }).models.list(),
      OpenAI.AuthenticationError,
    )
    const unread = await api.post(CHAT, '{not json')
    assert.equal((await errorOf(unread)).code, 'invalid_api_key')
    assert.equal(api.runs.requests.length, 0)
  })

  it('asks for it on every route but those that it names, and also where there is no route', async () => {
    await using api = await startGuarded()
    const status = async (path: string, method = 'GET') => (await fetch(api.url + path, { method })).status
    for (const path of ['/v1/models', '/v1/models/logbook-7m', '/v1/plan?prompt_tokens=5', '/v1/cluster', '/v1/runs'])
      assert.equal(await status(path), 401, path)
    for (const path of [
      '/metrics',
      '/v1/runs/x/trace',
      '/nothing',
      '/V1/MODELS',
      '/v1/models/../cluster',
      '//v1/cluster',
    ])
      assert.equal(await status(path), 401, path)
    for (const path of ['/tokenize', '/detokenize', '/v1/completions'])
      assert.equal(await status(path, 'POST'), 401, path)
    for (const path of ['/health', '/ready', '/live']) assert.equal(await status(path), 200, path)
  })

  it('lets a revoked key no longer in, and a new one at once, without a restart', async () => {
    await using api = await startGuarded()
    assert.equal((await api.ask()).status, 200)
    const fresh = createKey()
    const stored = { id: fresh.id, name: 'new', sha256: fresh.sha256, created: '', limits: {} }
    await changeKeys(api.file, (keys) => [...keys.filter(({ id }) => id !== api.id), stored], live())
    api.clock.advance(1)
    assert.equal((await api.ask()).status, 401)
    assert.equal((await api.ask({ authorization: `Bearer ${fresh.key}` })).status, 200)
  })

  it('ends what is under way for a key that is revoked, and for no other', async () => {
    await using api = await startGuarded(hangsAfter(planned(4)))
    const other = createKey()
    const stored = { id: other.id, name: 'other', sha256: other.sha256, created: '', limits: {} }
    await changeKeys(api.file, (keys) => [...keys, stored], live())
    api.clock.advance(1)
    const stream = await api.ask(api.withKey, { ...ask, stream: true })
    const left = new AbortController()
    const headers = { authorization: `Bearer ${other.key}` }
    const others = await api.post(CHAT, { ...ask, stream: true }, left.signal, headers)
    await changeKeys(api.file, (keys) => keys.filter(({ id }) => id !== api.id), live())
    api.clock.advance(1)
    const events = await allEvents(stream)
    assert.equal((events.at(-1) as { error: { code: string } }).error.code, 'invalid_api_key')
    assert.deepEqual(
      api.runs.signals.map(({ aborted }) => aborted),
      [true, false],
    )
    left.abort()
    await assert.rejects(others.text())
  })

  it('never says a key in its log, nor in its metrics', async () => {
    await using api = await startGuarded()
    await (await api.ask()).text()
    await api.ask({ authorization: 'Bearer hr-00000000-canary' })
    const metrics = await (await fetch(`${api.url}/metrics`, { headers: api.withKey })).text()
    assert.match(metrics, /headrace_http_requests_total\{[^}]*status="401"/)
    for (const text of [metrics, api.logged.join('')]) {
      assert.ok(!text.includes(api.key) && !text.includes(api.key.slice(12)))
      assert.ok(!text.includes('canary'))
    }
  })
})

describe('the limits of a key', () => {
  const refused = async (response: Response) => {
    assert.equal(response.status, 429)
    const error = await errorOf(response)
    assert.deepEqual([error.code, error.type], ['rate_limit_exceeded', 'rate_limit_error'])
    return { retry: Number(response.headers.get('retry-after')), message: error.message }
  }

  it('on requests say when the next may come', async () => {
    await using api = await startGuarded(hello, { requestsPerMinute: 2 })
    for (let i = 0; i < 2; i++) assert.equal((await api.ask()).status, 200)
    const { retry, message } = await refused(await api.ask())
    assert.equal(retry, 30)
    assert.match(message, /2 requests a minute/)
    api.clock.advance(30)
    assert.equal((await api.ask()).status, 200)
  })

  it('on tokens count prompts and answers', async () => {
    // The prompt has 13 tokens or so; a full bucket lets one of any length in.
    await using api = await startGuarded(hello, { tokensPerMinute: 20 })
    const used = async (response: Response) => ((await response.json()) as { usage: { total_tokens: number } }).usage
    const { total_tokens } = await used(await api.ask())
    assert.ok(total_tokens > 13 && total_tokens <= 20, `${total_tokens}`)
    const { retry } = await refused(await api.ask())
    assert.ok(retry >= 1 && retry <= 60)
    api.clock.advance(retry)
    assert.equal((await api.ask()).status, 200)
  })

  it('on requests at the same time end with a request, also one that is broken off', async () => {
    await using api = await startGuarded(hangsAfter(), { concurrent: 1 })
    const client = new AbortController()
    const first = api.post(CHAT, { ...ask, stream: true }, client.signal, api.withKey)
    assert.equal((await first).status, 200)
    await refused(await api.ask(api.withKey, { ...ask, stream: true }))
    client.abort()
    api.runs.script = hello
    const signal = api.runs.signals[0]!
    if (!signal.aborted) await once(signal, 'abort')
    assert.equal((await api.ask()).status, 200)
  })

  it('on waiting tokens end with the waiting', async () => {
    let plan = (): void => undefined
    const script: Script = async function* (request, signal) {
      await new Promise<void>((resolve) => {
        plan = resolve
      })
      yield planned(request.promptTokens.length)
      yield* hangsAfter()(request, signal)
    }
    await using api = await startGuarded(script, { queuedTokens: 15 })
    assert.equal((await api.ask(api.withKey, { ...ask, stream: true })).status, 200)
    assert.match(
      (await refused(await api.ask(api.withKey, { ...ask, stream: true }))).message,
      /15 prompt tokens waiting/,
    )
    plan()
    api.runs.script = hello
    assert.equal((await api.ask()).status, 200)
  })

  it('are those of the file as it is now', async () => {
    await using api = await startGuarded(hello, { requestsPerMinute: 1 })
    assert.equal((await api.ask()).status, 200)
    await refused(await api.ask())
    await changeKeys(api.file, (keys) => keys.map((key) => ({ ...key, limits: {} })), live())
    api.clock.advance(1)
    assert.equal((await api.ask()).status, 200)
  })
})

describe('an address without a key', () => {
  it('is told to wait after some tries, and shuts nobody out who has one', async () => {
    await using api = await startGuarded(hello, {}, { strangerRequestsPerMinute: 3 })
    const status = async () => (await api.ask({ authorization: `Bearer ${createKey().key}` })).status
    assert.deepEqual([await status(), await status(), await status(), await status()], [401, 401, 401, 429])
    assert.equal((await api.ask()).status, 200)
    api.clock.advance(20)
    assert.equal(await status(), 401)
  })

  it('is the socket’s, whatever headers say', async () => {
    await using api = await startGuarded(hello, {}, { strangerRequestsPerMinute: 1, metrics: 'loopback' })
    const from = (address: string) =>
      api.ask({ 'x-forwarded-for': address, forwarded: `for=${address}`, 'x-real-ip': address, authorization: '' })
    assert.equal((await from('10.0.0.1')).status, 401)
    assert.equal((await from('10.0.0.2')).status, 429)
    assert.equal((await fetch(`${api.url}/metrics`, { headers: { 'x-forwarded-for': '10.0.0.1' } })).status, 200)
  })
})

describe('who may see metrics and health', () => {
  it('is a setting: anybody, who has a key, this machine', async () => {
    for (const [metrics, health, seen] of [
      ['open', 'key', [200, 401, 401]],
      ['key', 'open', [401, 200, 200]],
      ['loopback', 'loopback', [200, 200, 200]],
    ] as const) {
      await using api = await startGuarded(hello, {}, { metrics, health })
      const paths = ['/metrics', '/health', '/live']
      assert.deepEqual(await Promise.all(paths.map(async (path) => (await fetch(api.url + path)).status)), seen)
      for (const path of paths) assert.equal((await fetch(api.url + path, { headers: api.withKey })).status, 200)
    }
  })

  it('is not another machine where it is this one', async () => {
    await using api = await startApi(hello, { access: { ...OPEN_ACCESS, metrics: 'loopback', health: 'loopback' } })
    for (const path of ['/metrics', '/health']) {
      const answer = await api.app.inject({ path, remoteAddress: '192.0.2.7' })
      assert.equal(answer.statusCode, 403)
      assert.equal(answer.json().error.code, 'access_denied')
      assert.equal((await api.app.inject({ path, remoteAddress: '::ffff:127.0.0.1' })).statusCode, 200)
    }
  })

  it('without keys, other machines may ask so often and no oftener', async () => {
    await using api = await startApi(hello, { access: { ...OPEN_ACCESS, strangerRequestsPerMinute: 2 } })
    const status = async (remoteAddress: string) =>
      (await api.app.inject({ path: '/v1/models', remoteAddress })).statusCode
    assert.deepEqual([await status('192.0.2.7'), await status('192.0.2.7'), await status('192.0.2.7')], [200, 200, 429])
    assert.equal(await status('192.0.2.8'), 200)
    for (let i = 0; i < 5; i++) assert.equal(await status('127.0.0.1'), 200)
  })
})

describe('web pages of other origins', () => {
  const page = { origin: 'https://app.example.org' }
  const preflight = {
    ...page,
    'access-control-request-method': 'POST',
    'access-control-request-headers': 'authorization',
  }

  it('are told nothing by default', async () => {
    await using api = await startApi(hello)
    const asked = await fetch(api.url + CHAT, { method: 'OPTIONS', headers: preflight })
    assert.equal(asked.status, 403)
    const posted = await api.post(CHAT, ask, undefined, page)
    assert.equal((await errorOf(posted)).code, 'access_denied')
    for (const answer of [asked, posted])
      assert.equal([...answer.headers.keys()].filter((name) => name.startsWith('access-control')).length, 0)
  })

  it('may ask where their origin is named, whole and streaming, and read why they are refused', async () => {
    await using api = await startGuarded(hello)
    await using open = await startApi(hello, { cors: [page.origin] })
    await using guarded = await startApi(hello, {
      cors: [page.origin],
      access: { ...OPEN_ACCESS, keys: await ringOf(api.file) },
    })
    const allowed = await fetch(guarded.url + CHAT, { method: 'OPTIONS', headers: preflight })
    assert.equal(allowed.status, 204)
    assert.equal(allowed.headers.get('access-control-allow-origin'), page.origin)
    assert.match(allowed.headers.get('access-control-allow-headers') ?? '', /authorization.*idempotency-key/)
    for (const stream of [false, true]) {
      const answer = await open.post(CHAT, { ...ask, stream }, undefined, page)
      assert.equal(answer.headers.get('access-control-allow-origin'), page.origin)
      assert.equal(answer.headers.get('access-control-allow-credentials'), null)
      assert.equal(answer.headers.get('vary'), 'origin')
      await answer.text()
    }
    const refused = await guarded.post(CHAT, ask, undefined, page)
    assert.equal(refused.status, 401)
    assert.equal(refused.headers.get('access-control-allow-origin'), page.origin)
  })

  it('of other names are told nothing', async () => {
    await using api = await startApi(hello, { cors: [page.origin] })
    for (const origin of [
      'https://app.example.org.evil.net',
      'http://app.example.org',
      'null',
      'https://APP.example.org',
    ]) {
      const answer = await api.post(CHAT, ask, undefined, { origin })
      assert.equal(answer.headers.get('access-control-allow-origin'), null, origin)
      await answer.text()
    }
  })
})

const ringOf = (file: string) => KeyRing.open(file, new ManualClock(), pino({ level: 'silent' }))

describe('without keys, a web page', () => {
  it('may not ask from elsewhere, nor under a name that was made to point here; this server’s own may', async () => {
    await using api = await startApi(hello)
    const status = async (origin: string, host: string) =>
      (await api.app.inject({ path: '/v1/models', headers: { origin, host } })).statusCode
    for (const own of ['127.0.0.1:8080', 'localhost:8080', '[::1]:8080', '192.0.2.7:8080'])
      assert.equal(await status(`http://${own}`, own), 200, own)
    for (const [origin, host] of [
      ['http://evil.example:8080', 'evil.example:8080'],
      ['http://127.0.0.1:9090', '127.0.0.1:8080'],
      ['null', '127.0.0.1:8080'],
      ['http://127.0.0.1.evil.example:8080', '127.0.0.1.evil.example:8080'],
    ] as const)
      assert.equal(await status(origin, host), 403, origin)
    assert.equal(api.runs.requests.length, 0)
  })
})

describe('a request head', () => {
  it('that is too long is refused, and the connection closes', async () => {
    await using api = await startApi()
    const socket = connect(api.port, '127.0.0.1').setEncoding('utf8')
    socket.write(`GET /live HTTP/1.1\r\nhost: x\r\nx-long: ${'a'.repeat(20_000)}\r\n\r\n`)
    const [answer] = (await once(socket, 'data')) as [string]
    assert.match(answer, /^HTTP\/1\.1 431 /)
    if (!socket.closed) await once(socket, 'close')
  })

  it('that does not come to its end, and a body that does not, have limited time, though bytes go on coming', async () => {
    await using api = await startApi(hello, { headerSeconds: 0.2, requestSeconds: 0.4 })
    const post = `POST /tokenize HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: 1000\r\n\r\n`
    for (const [begin, drop] of [
      ['GET /live HTTP/1.1\r\nhost: x\r\n', 'x-a: b\r\n'],
      [post, ' '],
    ] as const) {
      const socket = connect(api.port, '127.0.0.1').setEncoding('utf8')
      socket.on('error', () => undefined) // it may be told by a reset
      socket.write(begin)
      const drip = setInterval(() => socket.write(drop), 20)
      const [answer] = (await once(socket, 'data')) as [string]
      assert.match(answer, /^HTTP\/1\.1 408 /)
      if (!socket.closed) await once(socket, 'close')
      clearInterval(drip)
    }
  })

  it('has ten seconds by default, a whole request thirty', async () => {
    await using api = await startApi()
    assert.equal(api.app.server.headersTimeout, 10_000)
    assert.equal(api.app.server.requestTimeout, 30_000)
    assert.equal(api.app.server.maxConnections, 1024)
    assert.equal(api.app.server.maxHeadersCount, 100)
  })
})

describe('an error of the key file', () => {
  it('names the file and says how to make one', async () => {
    await using folder = await temporaryFolder()
    const file = join(folder.path, 'none.json')
    await assert.rejects(
      ringOf(file),
      (thrown) => thrown instanceof HeadraceError && thrown.code === 'bad_config' && thrown.message.includes(file),
    )
  })
})
