import assert from 'node:assert/strict'
import { spawnSync } from 'node:child_process'
import { createHash } from 'node:crypto'
import { existsSync } from 'node:fs'
import { mkdir, readdir, readFile, utimes, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { describe, it } from 'node:test'
import { takeLock } from '../../../shared/model-store/lock.ts'
import { ModelCache } from '../../../shared/model-store/model-cache.ts'
import { resolveModel } from '../../../shared/model-store/resolve.ts'
import { coded } from '../../support/coded.ts'
import { ManualClock } from '../../support/manual-clock.ts'
import { temporaryFolder } from '../../support/temporary.ts'

const MIB = 2 ** 20

/** Blobs by content. */
async function put(cache: ModelCache, content: Buffer): Promise<string> {
  const sha256 = createHash('sha256').update(content).digest('hex')
  await writeFile(cache.blobPath(sha256), content)
  return sha256
}

/** A model of one file of so many MiB, last used at `at` (seconds). */
async function model(cache: ModelCache, key: string, mib: number, at: number): Promise<string> {
  const sha256 = await put(cache, Buffer.alloc(mib * MIB, key))
  const path = await cache.publish(key, { files: [{ name: 'model.safetensors', sha256, size: mib * MIB }] })
  await utimes(join(cache.root, 'models', `${key}.json`), at, at)
  return path
}

/** A process that was there and is not any more. */
const deadProcess = (): number => spawnSync(process.execPath, ['-e', '']).pid

describe('the model cache', () => {
  it('shows blobs as a folder with the files’ names', async () => {
    await using folder = await temporaryFolder()
    const cache = new ModelCache(folder.path)
    await cache.open()
    const files = [
      { name: 'config.json', sha256: await put(cache, Buffer.from('{}')), size: 2 },
      { name: 'model.gguf', sha256: await put(cache, Buffer.from('gguf')), size: 4 },
    ]
    const path = await cache.publish('k', { files })
    assert.deepEqual(await readdir(path), ['config.json', 'model.gguf'])
    assert.equal(await readFile(join(path, 'model.gguf'), 'utf8'), 'gguf')
    assert.equal(await cache.find('k'), path)
    assert.equal(await cache.find('other'), undefined)
    assert.equal(await cache.publish('k', { files, entry: 'model.gguf' }), join(path, 'model.gguf'))
  })

  it('finds models by the name that they were pulled under, and takes paths as they are', async () => {
    await using folder = await temporaryFolder()
    const cache = new ModelCache(folder.path)
    await cache.open()
    const path = await model(cache, 'k', 1, 1)
    await cache.name('org/name', 'k')
    assert.equal(await resolveModel('org/name', folder.path), path)
    assert.equal(await resolveModel(folder.path, folder.path), folder.path)
    assert.equal(await resolveModel('./no/such/path', folder.path), './no/such/path')
    await assert.rejects(resolveModel('org/other', folder.path), coded('model_not_cached'))
  })

  it('makes room by the models unused for longest, but not by those in use', async () => {
    await using folder = await temporaryFolder()
    const cache = new ModelCache(folder.path, 10 * MIB)
    await cache.open()
    const [a, b, c] = [
      await model(cache, 'a', 3, 100),
      await model(cache, 'b', 3, 200),
      await model(cache, 'c', 3, 300),
    ]
    const free = await cache.lease('a')
    await cache.makeRoom(2 * MIB, new Set())
    assert.deepEqual([a, b, c].map(existsSync), [true, false, true])
    assert.equal((await readdir(join(folder.path, 'blobs'))).length, 2)
    // Too much for any eviction: refused, and nothing is lost over it.
    await assert.rejects(cache.makeRoom(8 * MIB, new Set()), coded('cache_full'))
    assert.deepEqual([a, c].map(existsSync), [true, true])
    await free()
    await cache.makeRoom(8 * MIB, new Set())
    assert.deepEqual([a, c].map(existsSync), [false, false])
  })

  it('keeps a blob that another model has too', async () => {
    await using folder = await temporaryFolder()
    const cache = new ModelCache(folder.path, 6 * MIB)
    await cache.open()
    const shared = { name: 'tokenizer.json', sha256: await put(cache, Buffer.alloc(2 * MIB, 's')), size: 2 * MIB }
    const own = { name: 'model.safetensors', sha256: await put(cache, Buffer.alloc(2 * MIB, 'o')), size: 2 * MIB }
    await cache.publish('old', { files: [shared, own] })
    await utimes(join(folder.path, 'models', 'old.json'), 1, 1)
    const kept = await cache.publish('new', { files: [shared] })
    await cache.lease('new')
    await cache.makeRoom(4 * MIB, new Set())
    assert.deepEqual(await readdir(join(folder.path, 'blobs')), [shared.sha256])
    assert.equal((await readFile(join(kept, 'tokenizer.json'))).length, 2 * MIB)
  })

  it('gives up broken-off downloads first, but not what is to come', async () => {
    await using folder = await temporaryFolder()
    const cache = new ModelCache(folder.path, 10 * MIB)
    await cache.open()
    const path = await model(cache, 'a', 3, 100)
    const [mine, other] = ['1'.repeat(64), '2'.repeat(64)]
    for (const sha256 of [mine, other]) await writeFile(cache.partialPath(sha256, 'pieces'), Buffer.alloc(3 * MIB, 1))
    await cache.makeRoom(3 * MIB, new Set([mine]))
    assert.deepEqual(await readdir(join(folder.path, 'partial')), [`${mine}.pieces`])
    assert.ok(existsSync(path))
  })

  it('does not count a process that has died as using a model', async () => {
    await using folder = await temporaryFolder()
    const cache = new ModelCache(folder.path, 4 * MIB)
    await cache.open()
    const path = await model(cache, 'a', 3, 100)
    await mkdir(join(folder.path, 'leases'))
    await writeFile(join(folder.path, 'leases', `a.${deadProcess()}`), '')
    await cache.makeRoom(3 * MIB, new Set())
    assert.ok(!existsSync(path))
  })
})

describe('a lock', () => {
  it('has one holder at a time; a dead one’s is taken over', async () => {
    await using folder = await temporaryFolder()
    const file = join(folder.path, 'locks', 'l')
    const clock = new ManualClock()
    const never = new AbortController().signal
    const waits: number[] = []
    const free = await takeLock(file, clock, never, () => waits.push(1))
    const leaving = new AbortController()
    const second = takeLock(file, clock, leaving.signal, () => {
      waits.push(2)
      leaving.abort()
    })
    await assert.rejects(second, coded('cancelled'))
    assert.deepEqual(waits, [2])
    await free()
    await writeFile(file, String(deadProcess()))
    await (await takeLock(file, clock, never, () => waits.push(3)))()
    assert.deepEqual(waits, [2])
    assert.ok(!existsSync(file))
  })
})
