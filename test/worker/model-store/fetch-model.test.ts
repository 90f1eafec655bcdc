import assert from 'node:assert/strict'
import { existsSync } from 'node:fs'
import { chmod, mkdir, readdir, readFile, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { describe, it } from 'node:test'
import { HeadraceError } from '../../../shared/errors.ts'
import { CONTROL_LIMITS } from '../../../shared/link/link.ts'
import { realClock } from '../../../shared/link/real-clock.ts'
import { createLog } from '../../../shared/log.ts'
import { FileHashes } from '../../../shared/model-store/file-hashes.ts'
import { fingerprintOf } from '../../../shared/model-store/manifest.ts'
import { ModelCache } from '../../../shared/model-store/model-cache.ts'
import type { PieceSet } from '../../../shared/model-store/piece-set.ts'
import { Shelf } from '../../../shared/model-store/shelf.ts'
import { commandSchema, eventSchema, PROTOCOL_VERSION } from '../../../shared/protocol/control.ts'
import { decodeMessage, encodeMessage } from '../../../shared/protocol/messages.ts'
import { Exchange } from '../../../shared/security/exchange.ts'
import { WorkerMetrics } from '../../../worker/metrics.ts'
import { fetchModel } from '../../../worker/model-store/fetch-model.ts'
import { coded } from '../../support/coded.ts'
import { MemoryNetwork } from '../../support/memory-link.ts'
import { madeUpModel, serveModel } from '../../support/model-server.ts'
import { seededRandom } from '../../support/random.ts'
import { temporaryFolder } from '../../support/temporary.ts'

const PIECE = 1000
const model = madeUpModel({ 'config.json': 20, 'model.safetensors': 40 * PIECE + 7 }, PIECE)
const [, weights] = model.manifest.files
const never = new AbortController().signal

/** What a worker fetches with, from the coordinator at `url`. Links go to `network`. */
function fetcher(url: string, root: string, network = new MemoryNetwork(), budgetBytes?: number) {
  const coordinatorUrl = `${url.replace('http', 'ws')}/link`
  const metrics = new WorkerMetrics({ version: 'test', role: 'prefill', engine: 'reference' })
  const shelf = new Shelf()
  const identity = {
    protocol: PROTOCOL_VERSION,
    name: 'w',
    role: 'prefill',
    engine: 'reference',
    url: 'ws://w/link',
    host: 'h',
    cores: 1,
    threads: 1,
    memoryBytes: 0,
    budgetBytes: 0,
  } as const
  const of = {
    coordinatorUrl,
    identity,
    cache: new ModelCache(root, budgetBytes),
    hashes: new FileHashes(root),
    shelf,
    dialer: network,
    exchange: new Exchange(),
    metrics,
    clock: realClock,
    random: seededRandom(3),
    log: createLog('test', 'silent'),
  }
  return { fetch: (signal: AbortSignal = never) => fetchModel(of, signal), metrics, shelf }
}

async function assertWhole(path: string): Promise<void> {
  assert.deepEqual((await readdir(path)).sort(), ['config.json', 'model.safetensors'])
  for (const { name, sha256 } of model.manifest.files)
    assert.ok(model.contents.get(sha256)!.equals(await readFile(join(path, name))), name)
}

/** A link to the coordinator that answers every announcement with these sources. */
function tellingSources(url: string, sources: { url: string; have: PieceSet | undefined }[]): MemoryNetwork {
  const network = new MemoryNetwork()
  network.register(`${url.replace('http', 'ws')}/link`, CONTROL_LIMITS, (link) => {
    const serve = async (): Promise<void> => {
      for (let frame = await link.receive(); frame; frame = await link.receive()) {
        assert.equal(decodeMessage(eventSchema, frame, CONTROL_LIMITS.maxFrameBytes).message.kind, 'fetching')
        const told = sources.map((source) => ({ url: `${source.url.replace('http', 'ws')}/link`, whole: !source.have }))
        const payload = Buffer.concat(sources.flatMap(({ have }) => (have ? [have.bytes] : [])))
        await link.send(encodeMessage(commandSchema, { kind: 'sources', sources: told }, payload))
      }
    }
    serve().catch(() => undefined) // the worker has what it wants, and closes
  })
  return network
}

describe('a model is fetched', () => {
  it('from the coordinator, checked, and once', async () => {
    await using folder = await temporaryFolder()
    await using source = await serveModel(model)
    const { path, fingerprint } = await fetcher(source.url, folder.path).fetch()
    assert.equal(fingerprint, model.manifest.fingerprint)
    await assertWhole(path)
    assert.equal(new Set(source.asked).size, 42)
    assert.equal(source.asked.length, 42)
    const again = await fetcher(source.url, folder.path).fetch()
    assert.equal(again.path, path)
    assert.equal(source.asked.length, 42)
    assert.deepEqual(await readdir(join(folder.path, 'partial')), [])
  })

  it('from where it was left off', async () => {
    await using folder = await temporaryFolder()
    await using source = await serveModel(model, (request) => (request < 25 ? 'give' : 'hang'))
    const leaving = new AbortController()
    const left = fetcher(source.url, folder.path).fetch(leaving.signal)
    await source.hung(4)
    leaving.abort(new HeadraceError('shutting_down', 'enough'))
    await assert.rejects(left, coded('shutting_down'))
    await using rest = await serveModel(model)
    await assertWhole((await fetcher(rest.url, folder.path).fetch()).path)
    assert.equal(rest.asked.length, 42 - 25)
  })

  it('again where what was kept has been changed', async () => {
    await using folder = await temporaryFolder()
    await using source = await serveModel(model, (request) => (request < 41 ? 'give' : 'hang'))
    const leaving = new AbortController()
    const left = fetcher(source.url, folder.path).fetch(leaving.signal)
    await source.hung(1)
    leaving.abort()
    await assert.rejects(left)
    const partial = join(folder.path, 'partial', `${weights!.sha256}.pieces`)
    const bytes = await readFile(partial)
    for (const at of [5 * PIECE + 1, 9 * PIECE + 1]) bytes[at]! ^= 1
    await writeFile(partial, bytes)
    await using rest = await serveModel(model)
    await assertWhole((await fetcher(rest.url, folder.path).fetch()).path)
    // Two that were changed, the one that hung, and up to three that were on their way beside it.
    assert.ok(rest.asked.length >= 3 && rest.asked.length <= 6, `${rest.asked}`)
    // The same for a file that was whole.
    const blob = join(folder.path, 'blobs', weights!.sha256)
    await chmod(blob, 0o644)
    await writeFile(blob, bytes)
    await using third = await serveModel(model)
    await assertWhole((await fetcher(third.url, folder.path).fetch()).path)
    assert.equal(third.asked.length, 41)
  })

  it('through failures, cut connections and answers that do not come', async () => {
    await using folder = await temporaryFolder()
    await using source = await serveModel(model, (n) => (n % 9 === 2 ? 'fail' : n % 9 === 5 ? 'cut' : 'give'))
    await assertWhole((await fetcher(source.url, folder.path).fetch()).path)
  })

  it('from other workers too, each for what it has, and given on while it comes', async () => {
    await using folder = await temporaryFolder()
    // The coordinator gives 10 pieces and then nothing until the other worker has been asked for the rest.
    await using slow = await serveModel(model, (request) => (request < 10 ? 'give' : 'hang'))
    await using peer = await serveModel(model)
    const network = tellingSources(slow.url, [{ url: peer.url, have: undefined }])
    const { fetch, shelf, metrics } = fetcher(slow.url, folder.path, network)
    const leaving = new AbortController()
    const fetched = fetch(leaving.signal)
    await slow.hung(4)
    const partial = shelf.get(weights!.sha256)!
    const there = Array.from({ length: 41 }, (_, i) =>
      partial.has!(i * PIECE, Math.min((i + 1) * PIECE, weights!.size)),
    )
    assert.ok(there.includes(true) && there.includes(false))
    while (peer.asked.length < 42 - 10 - 4) await new Promise((resolve) => setImmediate(resolve))
    leaving.abort()
    await assert.rejects(fetched)
    const values = (await metrics.weightsBytes.get()).values
    assert.ok(values.some(({ labels, value }) => labels.source === 'worker' && value > 20 * PIECE))
  })

  it('not from a source that lies: it is asked once and no more', async () => {
    await using folder = await temporaryFolder()
    await using honest = await serveModel(model)
    await using liar = await serveModel(model, () => 'lie')
    const network = tellingSources(honest.url, [{ url: liar.url, have: undefined }])
    const { fetch, metrics } = fetcher(honest.url, folder.path, network)
    await assertWhole((await fetch()).path)
    assert.ok(liar.asked.length <= 2)
    const lied = (await metrics.weightsRefusals.get()).values.find(({ labels }) => labels.reason === 'lied')
    assert.equal(lied?.value, liar.asked.length)
  })
})

describe('a model is refused', () => {
  it('when nobody gives the bytes of its hash', async () => {
    await using folder = await temporaryFolder()
    await using source = await serveModel(model, (request) => (request === 30 ? 'lie' : 'give'))
    await assert.rejects(fetcher(source.url, folder.path).fetch(), coded('model_tampered'))
    assert.ok(!existsSync(join(folder.path, 'blobs', weights!.sha256)))
  })

  it('when its pieces are right and the whole is not', async () => {
    await using folder = await temporaryFolder()
    const files = model.manifest.files.map((file) => ({ ...file }))
    const wrong = 'a'.repeat(64)
    const contents = new Map(model.contents).set(wrong, model.contents.get(files[1]!.sha256)!)
    files[1]!.sha256 = wrong
    const manifest = { ...model.manifest, files, fingerprint: fingerprintOf(files) }
    await using source = await serveModel({ manifest, contents })
    await assert.rejects(fetcher(source.url, folder.path).fetch(), coded('model_tampered'))
    assert.ok(!existsSync(join(folder.path, 'blobs', wrong)))
  })

  it('when it does not fit the budget, before any of it is fetched', async () => {
    await using folder = await temporaryFolder()
    await using source = await serveModel(model)
    await assert.rejects(fetcher(source.url, folder.path, undefined, 20 * PIECE).fetch(), coded('cache_full'))
    assert.deepEqual(source.asked, [])
  })

  it('when its cache cannot be written', async () => {
    await using folder = await temporaryFolder()
    await using source = await serveModel(model)
    const file = join(folder.path, 'a-file')
    await mkdir(folder.path, { recursive: true })
    await writeFile(file, '')
    await assert.rejects(fetcher(source.url, join(file, 'cache')).fetch(), coded('cache_failed'))
  })
})
