import assert from 'node:assert/strict'
import { createHash } from 'node:crypto'
import { mkdir, stat, utimes, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { describe, it } from 'node:test'
import { FileHashes } from '../../../shared/model-store/file-hashes.ts'
import { identifyModel } from '../../../shared/model-store/identity.ts'
import {
  fingerprintOf,
  type Manifest,
  manifestKey,
  PIECE_BYTES,
  parseManifest,
  piecesOf,
} from '../../../shared/model-store/manifest.ts'
import { PieceSet } from '../../../shared/model-store/piece-set.ts'
import { coded } from '../../support/coded.ts'
import { temporaryFolder } from '../../support/temporary.ts'

const sha = (text: string): string => createHash('sha256').update(text).digest('hex')

async function identified(files: Record<string, string | Uint8Array>): Promise<Manifest> {
  await using folder = await temporaryFolder()
  for (const [name, content] of Object.entries(files)) await writeFile(join(folder.path, name), content)
  return (await identifyModel(folder.path, new FileHashes(join(folder.path, 'cache')))).manifest
}

describe('a manifest', () => {
  it('names the files that Headrace reads, with the hash of each and of its pieces', async () => {
    const weights = Buffer.alloc(PIECE_BYTES + 5, 'w')
    const manifest = await identified({
      'config.json': '{}',
      'model.safetensors': weights,
      'README.md': 'not ours',
      '.hidden': 'nor this',
    })
    assert.deepEqual(
      manifest.files.map(({ name, role, size }) => [name, role, size]),
      [
        ['config.json', 'config', 2],
        ['model.safetensors', 'weights', PIECE_BYTES + 5],
      ],
    )
    const [config, model] = manifest.files
    assert.deepEqual(config?.pieces, [sha('{}')])
    assert.equal(config?.sha256, sha('{}'))
    assert.deepEqual(model?.pieces, [sha('w'.repeat(PIECE_BYTES)), sha('wwwww')])
    assert.deepEqual(parseManifest(JSON.parse(JSON.stringify(manifest))), manifest)
    assert.deepEqual(
      piecesOf(manifest).map(({ file, offset, length }) => [file.name, offset, length]),
      [
        ['config.json', 0, 2],
        ['model.safetensors', 0, PIECE_BYTES],
        ['model.safetensors', PIECE_BYTES, 5],
      ],
    )
  })

  it('takes from an index the shards that it names, and no others', async () => {
    const index = JSON.stringify({
      weight_map: { a: 'one-00001-of-00002.safetensors', b: 'one-00002-of-00002.safetensors' },
    })
    const shards = { 'one-00001-of-00002.safetensors': '1', 'one-00002-of-00002.safetensors': '2' }
    const folder = {
      'config.json': '{}',
      'model.safetensors.index.json': index,
      'consolidated.safetensors': '3',
      ...shards,
    }
    assert.deepEqual(
      (await identified(folder)).files.map(({ name }) => name),
      ['config.json', 'model.safetensors.index.json', ...Object.keys(shards)],
    )
    const outside = JSON.stringify({ weight_map: { a: '../secret.safetensors' } })
    await assert.rejects(identified({ 'model.safetensors.index.json': outside }), coded('model_bad_weights'))
    const missing = JSON.stringify({ weight_map: { a: 'gone.safetensors' } })
    await assert.rejects(identified({ 'model.safetensors.index.json': missing }), coded('model_incomplete'))
  })

  it('of a GGUF file has its splits, and says by which one it is opened', async () => {
    await using folder = await temporaryFolder()
    for (const name of ['m-00001-of-00002.gguf', 'm-00002-of-00002.gguf', 'other.gguf'])
      await writeFile(join(folder.path, name), name)
    const entry = 'm-00001-of-00002.gguf'
    const { manifest } = await identifyModel(join(folder.path, entry), new FileHashes(folder.path))
    assert.equal(manifest.entry, entry)
    assert.deepEqual(
      manifest.files.map(({ name }) => name),
      [entry, 'm-00002-of-00002.gguf'],
    )
  })

  it('has the fingerprint of what decides numbers and tokens', async () => {
    const model = { 'config.json': '{}', 'model.safetensors': 'w', 'tokenizer.json': 't', 'chat_template.jinja': 'c' }
    const { fingerprint, ...manifest } = await identified(model)
    const other = await identified({ ...model, 'chat_template.jinja': 'd' })
    assert.equal(other.fingerprint, fingerprint)
    assert.notEqual(manifestKey(other), manifestKey(manifest))
    for (const name of ['config.json', 'model.safetensors', 'tokenizer.json'])
      assert.notEqual((await identified({ ...model, [name]: 'x' })).fingerprint, fingerprint, name)
    // The same bytes in another role are another model.
    const swapped = manifest.files.map(
      (file) => ({ ...file, role: file.role === 'config' ? 'weights' : file.role }) as const,
    )
    assert.notEqual(fingerprintOf(swapped), fingerprint)
  })

  it('is refused if it contradicts itself or leads elsewhere', async () => {
    const good = await identified({ 'config.json': '{}', 'model.safetensors': 'w' })
    const [config, weights] = good.files
    const bad: unknown[] = [
      'text',
      { ...good, files: [] },
      { ...good, piece_bytes: 0 },
      { ...good, piece_bytes: 1 },
      { ...good, entry: 'other' },
      { ...good, fingerprint: sha('another') },
      { ...good, files: [config, config] },
      { ...good, files: [config, { ...weights, size: 2 ** 40 }] },
      ...['../x', '/etc/passwd', '..', '.ssh', 'a/b', 'a\\b', ''].map((name) => ({
        ...good,
        files: [config, { ...weights, name }],
      })),
    ]
    for (const json of bad) assert.throws(() => parseManifest(json), coded('model_bad_manifest'), JSON.stringify(json))
  })
})

describe('hashes of files', () => {
  it('are kept until the file changes, also if it keeps its size and time', async () => {
    await using folder = await temporaryFolder()
    const path = join(folder.path, 'model.safetensors')
    await mkdir(join(folder.path, 'cache'))
    const hashes = new FileHashes(join(folder.path, 'cache'))
    const bytes = Buffer.alloc(2 << 20, 1)
    await writeFile(path, bytes)
    const first = await hashes.of(path)
    // Kept: aborting what would read the file changes nothing.
    assert.equal((await hashes.of(path, AbortSignal.abort())).sha256, first.sha256)
    const { atime, mtime } = await stat(path)
    bytes[7] = 2
    await writeFile(path, bytes)
    await utimes(path, atime, mtime)
    assert.notEqual((await hashes.of(path)).sha256, first.sha256)
  })
})

describe('a set of pieces', () => {
  it('travels as bits', () => {
    const set = new PieceSet(11)
    for (const piece of [0, 7, 8, 10, 10]) set.add(piece)
    assert.equal(set.count, 4)
    assert.deepEqual([...set.bytes], [0b1000_0001, 0b101])
    const copy = new PieceSet(11, set.bytes)
    assert.deepEqual(
      Array.from({ length: 11 }, (_, i) => copy.has(i)),
      Array.from({ length: 11 }, (_, i) => set.has(i)),
    )
    // Bits beyond the end, and bytes that are missing, are no pieces.
    assert.equal(new PieceSet(3, Uint8Array.of(0xff)).count, 3)
    assert.equal(new PieceSet(20, Uint8Array.of(0xff)).count, 8)
  })
})
