import assert from 'node:assert/strict'
import { existsSync, readdirSync } from 'node:fs'
import { readFile } from 'node:fs/promises'
import { join } from 'node:path'
import { after, describe, it } from 'node:test'
import { madeUpModel, serveModel } from '../support/model-server.ts'
import { bundledModel } from '../support/paths.ts'
import { askUntil, type ClusterAnswer, Headrace } from '../support/processes.ts'
import { temporaryFolder } from '../support/temporary.ts'

/** Real processes: a coordinator with a model, workers that get theirs from it. */

const running: Headrace[] = []
function start(...args: string[]): Headrace {
  const process = new Headrace(...args)
  running.push(process)
  return process
}
const stopAll = () => Promise.all(running.splice(0).map((process) => process.stop()))
after(stopAll)

/** An empty folder for the processes of one test, removed once they have ended: they write there to their last. */
async function ownFolder() {
  const folder = await temporaryFolder()
  const remove = async (): Promise<void> => {
    await stopAll()
    await folder[Symbol.asyncDispose]()
  }
  return { path: folder.path, [Symbol.asyncDispose]: remove }
}

async function startCoordinator(cache: string, ...args: string[]): Promise<string> {
  const coordinator = start('coordinator', '--model', bundledModel, '--port', '0', '--cache', cache, ...args)
  return coordinator.line(/^http:/)
}

const worker = (url: string, cache: string, name: string, ...args: string[]): Headrace =>
  start('worker', '--join', url, '--cache', cache, '--name', name, '--threads', '1', ...args)

interface ModelAnswer extends ClusterAnswer {
  readonly workers: { id: string; role: string; state: string; runs: number; precision: string | null }[]
}
const untilReady = (url: string, count: number): Promise<ModelAnswer> =>
  askUntil<ModelAnswer>(
    `${url}/v1/cluster`,
    ({ workers }) => workers.filter(({ state }) => state === 'ready').length >= count,
  )

const ask = async (url: string) => {
  const answer = await fetch(`${url}/v1/completions`, {
    method: 'POST',
    headers: { 'content-type': 'application/json' },
    body: JSON.stringify({
      prompt: 'Vault K-472 was opened',
      max_tokens: 2,
      temperature: 0,
      headrace: { strategy: 'solo' },
    }),
  })
  return (await answer.json()) as { prefill: Record<string, unknown> & { workers: { precision: string }[] } }
}

describe('weights travel to workers that have none', () => {
  it('from the coordinator; and the cluster answers', async () => {
    await using folder = await ownFolder()
    const url = await startCoordinator(join(folder.path, 'c'))
    worker(url, join(folder.path, 'a'), 'w')
    // Of the same machine and cache: the model is fetched once.
    worker(url, join(folder.path, 'a'), 'd', '--role', 'decode')
    await untilReady(url, 2)
    assert.equal((await ask(url)).prefill['mixed_precision'], false)
    const { files } = (await (await fetch(`${url}/v1/model/manifest`)).json()) as {
      files: { sha256: string; size: number }[]
    }
    assert.deepEqual(readdirSync(join(folder.path, 'a', 'blobs')).sort(), files.map(({ sha256 }) => sha256).sort())
    const sent = /^headrace_weights_sent_bytes_total (\d+)/m.exec(await (await fetch(`${url}/metrics`)).text())?.[1]
    assert.equal(
      Number(sent),
      files.reduce((sum, { size }) => sum + size, 0),
    )
  })

  it('and go on from workers that have them: the coordinator need not give them twice', async () => {
    await using folder = await ownFolder()
    const url = await startCoordinator(join(folder.path, 'c'))
    worker(url, join(folder.path, 'a'), 'first')
    await untilReady(url, 1)
    const second = worker(url, join(folder.path, 'b'), 'second')
    await second.says(/"joined"/)
    const { metrics } = JSON.parse(second.errors.split('\n').find((line) => line.includes('listening'))!) as {
      metrics: string
    }
    const text = await (await fetch(metrics)).text()
    assert.match(text, /^headrace_weights_ready 1$/m)
    assert.ok(Number(/transfer_bytes_total\{source="worker"\} (\d+)/.exec(text)?.[1]) > 0, text)
  })

  it('after `kill -9` in mid-download only what is missing', async () => {
    await using folder = await ownFolder()
    const model = madeUpModel({ 'config.json': 100, 'model.safetensors': 200_000 }, 10_000)
    await using broken = await serveModel(model, (request) => (request < 12 ? 'give' : 'hang'))
    const cache = join(folder.path, 'a')
    const first = worker(broken.url, cache, 'w')
    await broken.hung(4)
    first.child.kill('SIGKILL')
    await first.exited()
    await using whole = await serveModel(model)
    const second = worker(whole.url, cache, 'w')
    await second.says(/fetched the model/)
    assert.equal(whole.asked.length, 21 - 12)
    for (const { sha256 } of model.manifest.files)
      assert.ok(model.contents.get(sha256)!.equals(await readFile(join(cache, 'blobs', sha256))))
  })

  it('not if they are not what the manifest says', async () => {
    await using folder = await ownFolder()
    await using liar = await serveModel(madeUpModel({ 'config.json': 100, 'model.safetensors': 999 }, 100), (n) =>
      n === 5 ? 'lie' : 'give',
    )
    const refused = worker(liar.url, join(folder.path, 'a'), 'w')
    assert.deepEqual(await refused.exited(), { code: 1, signal: null })
    assert.match(refused.errors, /headrace: .* \[model_tampered\]/)
    assert.ok(!existsSync(join(folder.path, 'a', 'models', 'w')))
  })

  it('and a worker that is told to stop while it fetches stops', async () => {
    await using folder = await ownFolder()
    await using slow = await serveModel(madeUpModel({ 'model.safetensors': 999 }, 100), () => 'hang')
    const stopped = worker(slow.url, join(folder.path, 'a'), 'w')
    await slow.hung(4)
    assert.deepEqual(await stopped.stop(), { code: 0, signal: null })
  })
})

describe('workers of another precision', () => {
  it('are refused unless the user allows it; then answers say who computed in what', async () => {
    await using folder = await ownFolder()
    const cache = join(folder.path, 'c')
    const strict = await startCoordinator(cache)
    const own = ['--model', bundledModel]
    worker(strict, cache, 'd', '--role', 'decode', ...own)
    await untilReady(strict, 1)
    const refused = worker(strict, cache, 'w', '--weights', 'int8', ...own)
    assert.deepEqual(await refused.exited(), { code: 1, signal: null })
    assert.match(refused.errors, /int8.*f32.*\[precision_mismatch\]/)

    const lenient = await startCoordinator(cache, '--allow-mixed-precision')
    worker(lenient, cache, 'd', '--role', 'decode', ...own)
    worker(lenient, cache, 'w', '--weights', 'int8', ...own)
    const { workers } = await untilReady(lenient, 2)
    assert.deepEqual(workers.map(({ id, precision }) => `${id} ${precision}`).sort(), ['d f32', 'w int8'])
    const { prefill } = await ask(lenient)
    assert.equal(prefill['mixed_precision'], true)
    assert.equal(prefill['decode_precision'], 'f32')
    assert.equal(prefill.workers[0]?.precision, 'int8')
  })

  it('are refused by a coordinator that insists on one, whoever comes first', async () => {
    await using folder = await ownFolder()
    const cache = join(folder.path, 'c')
    const url = await startCoordinator(cache, '--precision', 'f32')
    const refused = worker(url, cache, 'w', '--weights', 'int8', '--model', bundledModel)
    assert.deepEqual(await refused.exited(), { code: 1, signal: null })
  })
})
