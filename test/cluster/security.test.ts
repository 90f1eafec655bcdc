import assert from 'node:assert/strict'
import { readFile } from 'node:fs/promises'
import { join } from 'node:path'
import { after, before, describe, it } from 'node:test'
import { askOver, bodyOf } from '../../shared/security/exchange.ts'
import { bundledModel } from '../support/paths.ts'
import { type ClusterAnswer, Headrace, startUp } from '../support/processes.ts'
import { temporaryFolder } from '../support/temporary.ts'

/** A cluster with certificates as people start it: every command a process. */

const never = new AbortController().signal
const question = {
  messages: [{ role: 'user', content: 'In the morning of day 27, nothing passed. What was the sea like? '.repeat(8) }],
  max_tokens: 12,
  temperature: 0,
  headrace: { strategy: 'chain', workers: 2 },
}

/** What a command prints, once it has ended well. */
async function output(...args: string[]): Promise<string> {
  const command = new Headrace(...args)
  assert.equal((await command.exited()).code, 0, command.errors)
  return command.output
}

async function refusal(...args: string[]): Promise<string> {
  const command = new Headrace(...args)
  assert.equal((await command.exited()).code, 1)
  return command.errors
}

describe('a cluster with certificates', () => {
  let temporary: Awaited<ReturnType<typeof temporaryFolder>>
  let folder: string
  let ca: string
  let coordinator: Headrace
  let url: string
  const workers = new Map<string, Headrace>()

  const ask = async (path: string, body?: object): Promise<unknown> => {
    const headers = { 'content-type': 'application/json' }
    const sent = body === undefined ? {} : { method: 'POST' as const, headers, body: JSON.stringify(body) }
    return JSON.parse(await bodyOf(await askOver(url + path, { ca }, { signal: never, ...sent }), 1 << 20))
  }
  const readyWorkers = async (): Promise<string[]> => {
    const cluster = (await ask('/v1/cluster')) as ClusterAnswer
    return cluster.workers.filter(({ state }) => state === 'ready').map(({ id }) => id)
  }
  const start = (name: string, ...more: string[]): void => {
    const state = ['--state', join(temporary.path, name), '--log-level', 'silent', '--threads', '1']
    workers.set(name, new Headrace('worker', '--model', bundledModel, '--join', url, ...state, ...more))
  }

  before(async () => {
    temporary = await temporaryFolder()
    folder = join(temporary.path, 'cluster')
    assert.match(await output('init', '--cluster', folder), /^Cluster [0-9a-f]{32} is in/)
    ca = await readFile(join(folder, 'authority.pem'), 'utf8')
    const silent = ['--log-level', 'silent', '--port', '0']
    coordinator = new Headrace('coordinator', '--model', bundledModel, '--cluster', folder, ...silent)
    url = await coordinator.line(/^https:/)
    const [two, decode] = await Promise.all([
      output('token', 'create', '--cluster', folder, '--uses', '2'),
      output('token', 'create', '--cluster', folder, '--role', 'decode', '--name', 'answers'),
    ])
    for (const name of ['attic', 'cellar']) start(name, '--name', name, '--token', two)
    start('answers', '--token', decode)
    while ((await readyWorkers()).length < 3) await new Promise((resolve) => setImmediate(resolve))
  })
  after(async () => {
    await Promise.all([coordinator, ...workers.values()].map((one) => one.stop()))
    await temporary[Symbol.asyncDispose]()
  })

  it('answers like one without', async () => {
    const answer = (await ask('/v1/chat/completions', question)) as {
      choices: { message: { content: string } }[]
      prefill: { workers: { id: string }[]; decode: string }
    }
    assert.deepEqual(answer.prefill.workers.map(({ id }) => id).sort(), ['attic', 'cellar'])
    assert.equal(answer.prefill.decode, 'answers')
    const plain = await startUp('--workers', '2')
    const headers = { 'content-type': 'application/json' }
    const same = { method: 'POST', headers, body: JSON.stringify(question) }
    const expected = await (await fetch(`${plain.url}/v1/chat/completions`, same)).json()
    assert.deepEqual(answer.choices, (expected as typeof answer).choices)
    await plain.up.stop()
  })

  it('is asked by the command line as soon as its authority is trusted, and says how', async () => {
    const plan = ['plan', '--prompt-tokens', '5000', '--url', url]
    assert.match(await refusal(...plan), /certificate.*NODE_EXTRA_CA_CERTS/)
    process.env['NODE_EXTRA_CA_CERTS'] = join(folder, 'authority.pem') // read when a process starts: this one's has been
    try {
      const text = await output(...plan)
      assert.match(text, /answers the last 5000$/m)
      assert.match(text, /: would use \S/) // whom depends on how fast each was measured to be
    } finally {
      delete process.env['NODE_EXTRA_CA_CERTS']
    }
  })

  it('lets nobody in without a token, or with one that is used, or of another cluster', async () => {
    const common = ['worker', '--model', bundledModel, '--join', url, '--log-level', 'silent']
    assert.match(await refusal(...common), /needs --state.*\[bad_config\]/)
    assert.match(await refusal(...common, '--state', join(temporary.path, 'x')), /\[token_refused\]/)
    const token = await output('token', 'create', '--cluster', folder, '--role', 'decode', '--name', 'answers')
    const id = token.split('.')[2]!
    await output('token', 'revoke', '--cluster', folder, id)
    const revoked = ['--state', join(temporary.path, 'x'), '--token', token]
    assert.match(await refusal(...common, ...revoked), /is unknown here \[token_refused\]/)
    await output('init', '--cluster', join(temporary.path, 'other'))
    const foreign = await output('token', 'create', '--cluster', join(temporary.path, 'other'))
    const stranger = ['--state', join(temporary.path, 'x'), '--token', foreign]
    assert.match(await refusal(...common, ...stranger), /nothing was sent \[certificate_refused\]/)
  })

  it('puts a worker out while it runs, and does not take it back', async () => {
    await output('identity', 'revoke', '--cluster', folder, 'cellar')
    const out = workers.get('cellar')!
    assert.equal((await out.exited()).code, 1)
    assert.match(out.errors, /\[identity_revoked\]/)
    workers.delete('cellar')
    assert.ok(!(await readyWorkers()).includes('cellar'))
    assert.match(await output('identity', 'list', '--cluster', folder), /cellar +prefill +revoked/)
    const again = ['worker', '--model', bundledModel, '--join', url, '--log-level', 'silent']
    assert.match(await refusal(...again, '--state', join(temporary.path, 'cellar')), /\[identity_revoked\]/)
  })
})

describe('without certificates', () => {
  it('nothing listens beyond loopback, unless it is told that it may', async () => {
    const model = ['--model', bundledModel, '--log-level', 'silent']
    for (const host of ['0.0.0.0', '::', '192.0.2.1']) {
      const refused = /--insecure-plaintext \[bad_config\]/
      assert.match(await refusal('coordinator', ...model, '--host', host), refused)
      assert.match(await refusal('worker', ...model, '--host', host), refused)
    }
    const open = new Headrace('coordinator', ...model, '--host', '0.0.0.0', '--port', '0', '--insecure-plaintext')
    await open.line(/^http:/)
    await open.stop()
  })
})
