import assert from 'node:assert/strict'
import { createHash } from 'node:crypto'
import { readdir, readFile, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { describe, it } from 'node:test'
import { Hub } from '../../../coordinator/hub/hub.ts'
import { type PullAsk, pull } from '../../../coordinator/hub/pull.ts'
import type { Clock } from '../../../shared/clock.ts'
import { FileHashes } from '../../../shared/model-store/file-hashes.ts'
import { ModelCache } from '../../../shared/model-store/model-cache.ts'
import { resolveModel } from '../../../shared/model-store/resolve.ts'
import { coded } from '../../support/coded.ts'
import { COMMIT, type HubContent, startHub, type Trouble } from '../../support/hub-server.ts'
import { temporaryFolder } from '../../support/temporary.ts'

const weights = Buffer.from(Array.from({ length: 100_000 }, (_, i) => (i * 7 + (i >> 8)) & 255))
const content: HubContent = {
  files: {
    '.gitattributes': Buffer.from('not wanted'),
    'README.md': Buffer.from('not wanted'),
    'config.json': Buffer.from('{"model_type":"llama"}'),
    'model.safetensors': weights,
    'pytorch_model.bin': Buffer.from('not wanted'),
    'tokenizer.json': Buffer.from('{}'),
  },
  large: ['model.safetensors', 'pytorch_model.bin'],
}
const WANTED = ['config.json', 'model.safetensors', 'tokenizer.json']
const STORED = '/store/model.safetensors'

/** Pauses take no time; how long they would have been is noted. */
function pauses() {
  const seconds: number[] = []
  const clock: Clock = {
    now: () => 0,
    sleep: async (pause) => {
      seconds.push(pause)
    },
  }
  return { seconds, clock }
}

function puller(url: string, root: string, token?: string, budgetBytes?: number) {
  const { seconds, clock } = pauses()
  const cache = new ModelCache(root, budgetBytes)
  const of = {
    hub: new Hub(url, token),
    cache,
    hashes: new FileHashes(root),
    clock,
    random: () => 0.5,
    signal: new AbortController().signal,
    onBytes: () => undefined,
    onPause: () => undefined,
    onWait: () => undefined,
  }
  const ask: PullAsk = { model: 'org/tiny', revision: 'main', file: undefined }
  return { pull: (changes: Partial<PullAsk> = {}) => pull({ ...ask, ...changes }, of), seconds, cache }
}

async function within(
  trouble: Trouble,
  test: (of: { hub: Awaited<ReturnType<typeof startHub>>; root: string }) => Promise<void>,
) {
  await using folder = await temporaryFolder()
  await using hub = await startHub(content, trouble)
  await test({ hub, root: folder.path })
}

describe('a pull', () => {
  it('fetches what Headrace reads, once, and finds it by its name', () =>
    within(
      () => undefined,
      async ({ hub, root }) => {
        const path = await puller(hub.url, root).pull()
        assert.deepEqual((await readdir(path)).sort(), WANTED)
        for (const name of WANTED) assert.ok(content.files[name]!.equals(await readFile(join(path, name))), name)
        assert.equal(await resolveModel('org/tiny', root), path)
        const before = hub.asked.filter((one) => one.path === STORED).length
        assert.equal(before, 1)
        assert.equal(await puller(hub.url, root).pull(), path)
        assert.equal(hub.asked.filter((one) => one.path === STORED).length, 1)
      },
    ))

  it('gives the token to the hub and not to where it redirects to', () =>
    within(
      () => undefined,
      async ({ hub, root }) => {
        await puller(hub.url, root, 'secret').pull()
        for (const { path, token } of hub.asked)
          assert.equal(token, path.startsWith('/store/') ? undefined : 'Bearer secret', path)
      },
    ))

  it('goes on where a connection was cut, in this process or one before', () =>
    within(
      (path, request) => (path === STORED && request < 2 ? 'cut' : undefined),
      async ({ hub, root }) => {
        const { pull: go, seconds } = puller(hub.url, root)
        const path = await go()
        assert.ok(weights.equals(await readFile(join(path, 'model.safetensors'))))
        const ranges = hub.asked.filter((one) => one.path === STORED).map(({ range }) => range)
        assert.equal(ranges.length, 3)
        assert.equal(ranges[0], undefined)
        const [second, third] = ranges.slice(1).map((range) => Number(/^bytes=(\d+)-$/.exec(range ?? '')?.[1]))
        assert.ok(second! > 0 && third! > second!)
        // Progress makes up for a failure: the pauses do not grow.
        assert.deepEqual(seconds, [0.5, 0.5])
      },
    ))

  it('begins anew if a server does not begin in the middle', () =>
    within(
      (path, request) => (path !== STORED ? undefined : request === 0 ? 'cut' : 'whole'),
      async ({ hub, root }) => {
        const path = await puller(hub.url, root).pull()
        assert.ok(weights.equals(await readFile(join(path, 'model.safetensors'))))
      },
    ))

  it('waits as long as it is told to, and tries again when the hub fails', () =>
    within(
      (path, request) => {
        if (path === STORED && request === 0) return { status: 429, headers: { 'retry-after': '7' } }
        return path.endsWith('/revision/main') && request < 2 ? { status: 500 } : undefined
      },
      async ({ hub, root }) => {
        const { pull: go, seconds } = puller(hub.url, root)
        await go()
        assert.deepEqual(seconds, [0.5, 1, 7])
      },
    ))

  it('gives up in the end, with what the hub said', () =>
    within(
      (path) => (path === STORED ? { status: 503 } : undefined),
      async ({ hub, root }) => {
        const { pull: go, seconds } = puller(hub.url, root)
        await assert.rejects(go(), coded('hub_failed'))
        assert.deepEqual(seconds, [0.5, 1, 2, 4])
      },
    ))

  it('refuses wrong bytes, large or small, and keeps none of them', async () => {
    for (const path of [STORED, `/org/tiny/resolve/${COMMIT}/config.json`])
      await within(
        (asked) => (asked === path ? 'wrong' : undefined),
        async ({ hub, root }) => {
          await assert.rejects(puller(hub.url, root).pull(), coded('model_tampered'))
          assert.deepEqual(await readdir(join(root, 'partial')), [])
          await assert.rejects(resolveModel('org/tiny', root), coded('model_not_cached'))
        },
      )
  })

  it('fetches anew what an earlier attempt left, if that was wrong', () =>
    within(
      () => undefined,
      async ({ hub, root }) => {
        const { pull: go, cache } = puller(hub.url, root)
        await cache.open()
        const sha256 = createHash('sha256').update(weights).digest('hex')
        await writeFile(cache.partialPath(sha256, 'prefix'), Buffer.alloc(1000))
        assert.ok(weights.equals(await readFile(join(await go(), 'model.safetensors'))))
        assert.deepEqual(
          hub.asked.filter((one) => one.path === STORED).map(({ range }) => range),
          ['bytes=1000-', undefined],
        )
      },
    ))

  it('says what is not there, and what is not open to the user', async () => {
    await within(
      () => undefined,
      async ({ hub, root }) => {
        await assert.rejects(puller(hub.url, root).pull({ model: 'org/other' }), coded('hub_not_found'))
        await assert.rejects(puller(hub.url, root).pull({ revision: 'other' }), coded('hub_not_found'))
      },
    )
    for (const status of [401, 403])
      await within(
        (path) => (path === STORED ? { status } : undefined),
        async ({ hub, root }) => {
          await assert.rejects(puller(hub.url, root).pull(), coded('hub_forbidden'))
        },
      )
  })

  it('refuses what does not fit the budget before it is fetched', () =>
    within(
      () => undefined,
      async ({ hub, root }) => {
        await assert.rejects(puller(hub.url, root, undefined, 50_000).pull(), coded('cache_full'))
        assert.ok(hub.asked.every((one) => one.path !== STORED))
      },
    ))

  it('takes the GGUF model of a repository, or the one asked for', async () => {
    await using folder = await temporaryFolder()
    const files = { 'a-Q4.gguf': Buffer.from('four'), 'a-Q8.gguf': Buffer.from('eight'), 'README.md': Buffer.from('') }
    await using hub = await startHub({ files, large: ['a-Q4.gguf', 'a-Q8.gguf'] })
    await assert.rejects(puller(hub.url, folder.path).pull(), coded('bad_config'))
    const path = await puller(hub.url, folder.path).pull({ file: 'a-Q8.gguf' })
    assert.equal(await readFile(path, 'utf8'), 'eight')
    assert.equal(await resolveModel('org/tiny/a-Q8.gguf', folder.path), path)
    await assert.rejects(puller(hub.url, folder.path).pull({ file: 'a-Q5.gguf' }), coded('hub_not_found'))
  })

  it('takes only an address that can be one', () => {
    for (const address of ['', 'hub', 'ftp://hub', 'file:///etc'])
      assert.throws(() => new Hub(address, undefined), coded('bad_config'))
  })
})
