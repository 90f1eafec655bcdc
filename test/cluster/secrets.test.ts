import assert from 'node:assert/strict'
import { readFile } from 'node:fs/promises'
import { join } from 'node:path'
import { describe, it } from 'node:test'
import { tokenizer } from '../support/api.ts'
import { bundledModel } from '../support/paths.ts'
import { Headrace } from '../support/processes.ts'
import { temporaryFolder } from '../support/temporary.ts'

/** What clients send stays between them and the cluster: real processes, asked to log all they can. */

const CANARY = 'canary yellow seven three one nine'
const CHAT = '/v1/chat/completions'

/** What a `headrace` command prints, and its standard error. */
async function print(...args: string[]): Promise<{ out: string; errors: string }> {
  const command = new Headrace(...args)
  await command.exited()
  return { out: command.output, errors: command.errors }
}

async function startLoud(...args: string[]) {
  const up = new Headrace(
    'up',
    '--model',
    bundledModel,
    '--port',
    '0',
    '--workers',
    '1',
    '--log-level',
    'trace',
    ...args,
  )
  const url = await up.line(/^http:/)
  const post = (body: unknown, headers: Readonly<Record<string, string>> = {}) =>
    fetch(url + CHAT, {
      method: 'POST',
      headers: { 'content-type': 'application/json', ...headers },
      body: typeof body === 'string' ? body : JSON.stringify(body),
    })
  return { up, url, post, [Symbol.asyncDispose]: async () => void (await up.stop()) }
}

const ask = { messages: [{ role: 'user', content: CANARY }], max_tokens: 4 }

describe('keys on the command line', () => {
  it('are shown once, kept as a hash, and no longer good once revoked; nothing of them or of a prompt is logged', async () => {
    await using folder = await temporaryFolder()
    const file = join(folder.path, 'keys.json')
    const made = await print('key', 'create', '--api-keys', file, '--name', 'tests', '--concurrent', '9')
    const key = made.out.trim()
    assert.match(key, /^hr-[0-9a-f]{8}-[\w-]{43}$/)
    assert.match(made.errors, /shown once/)
    const id = key.split('-')[1]!
    const secret = key.slice(12)
    const listed = await print('key', 'list', '--api-keys', file)
    assert.match(listed.out, new RegExp(`${id} +tests .* 9$`, 'm'))
    assert.ok(!listed.out.includes(secret) && !(await readFile(file, 'utf8')).includes(secret))

    await using cluster = await startLoud('--api-keys', file)
    const { up, url, post } = cluster
    const withKey = { authorization: `Bearer ${key}` }
    assert.equal((await post(ask)).status, 401)
    assert.equal((await post(ask, { authorization: `Bearer hr-${id}-${CANARY.replaceAll(' ', '-')}` })).status, 401)
    for (const stream of [false, true]) {
      const answer = await post({ ...ask, stream }, { ...withKey, 'idempotency-key': `${CANARY} ${stream}` })
      assert.equal(answer.status, 200)
      await answer.text()
    }
    assert.equal((await post(`{"messages": "${CANARY}`, withKey)).status, 400)
    assert.equal((await post({ ...ask, model: CANARY }, withKey)).status, 404)
    assert.equal((await post({ ...ask, [CANARY]: CANARY, tools: [CANARY] }, withKey)).status, 400)
    assert.equal((await fetch(`${url}/${encodeURIComponent(CANARY)}?q=${CANARY}`, { headers: withKey })).status, 404)
    const metrics = await (await fetch(`${url}/metrics`, { headers: withKey })).text()
    assert.match(metrics, /headrace_idempotent_requests_total\{outcome="begun"\} 2/)

    assert.match((await print('key', 'revoke', id, '--api-keys', file)).out, /revoked/)
    while ((await fetch(`${url}/v1/models`, { headers: withKey })).status !== 401);
    await up.stop()
    const ids = tokenizer.encode(CANARY)
    assert.match(up.errors, /"route":"\/v1\/chat\/completions"/)
    for (const told of [metrics, up.errors, up.output])
      for (const secretText of [CANARY, encodeURIComponent(CANARY), CANARY.replaceAll(' ', '-'), secret, ids.join(',')])
        assert.ok(!told.includes(secretText), secretText)
  })

  it('say what is wrong with what was typed', async () => {
    await using folder = await temporaryFolder()
    const file = join(folder.path, 'keys.json')
    assert.match((await print('key', 'list', '--api-keys', file)).errors, /headrace key create.*\[bad_config\]/)
    assert.match(
      (await print('key', 'create', '--api-keys', file, '--name', 'x', '--concurrent', '0')).errors,
      /--concurrent must be/,
    )
    assert.match((await print('key', 'revoke', '12345678', '--api-keys', file)).errors, /no key 12345678/)
    const bad = await print('coordinator', '--model', bundledModel, '--port', '0', '--cors', 'example.org')
    assert.match(bad.errors, /--cors example.org is not an origin/)
  })
})

describe('--log-prompts', () => {
  it('writes prompts to the log, and says at the start that it does', async () => {
    await using cluster = await startLoud('--log-prompts')
    assert.equal((await cluster.post(ask)).status, 200)
    await cluster.up.stop()
    assert.match(cluster.up.errors, /prompts go to the log/)
    assert.ok(cluster.up.errors.includes(CANARY))
  })
})
