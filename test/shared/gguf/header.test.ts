import assert from 'node:assert/strict'
import { mkdtemp, rm, truncate, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { after, before, describe, test } from 'node:test'
import { HeadraceError } from '../../../shared/errors.ts'
import { headerOf, partsOf } from '../../../shared/gguf/file.ts'
import type { GgufValue } from '../../../shared/gguf/values.ts'
import { readModelShape } from '../../../shared/model-folder.ts'
import { convertFolder } from '../../support/gguf/convert.ts'
import { Fields, type MetadataValue } from '../../support/gguf/fields.ts'
import { ggufBytes } from '../../support/gguf/write.ts'
import { fixture } from '../../support/paths.ts'

let folder: string
before(async () => {
  folder = await mkdtemp(join(tmpdir(), 'headrace-gguf-'))
})
after(() => rm(folder, { recursive: true }))

async function written(bytes: Uint8Array, name = 'model.gguf'): Promise<string> {
  const path = join(folder, name)
  await writeFile(path, bytes)
  return path
}

const code = (expected: string) => (thrown: unknown) => thrown instanceof HeadraceError && thrown.code === expected
const refuses = async (bytes: Uint8Array, expected = 'model_bad_weights', why?: string) =>
  assert.rejects(headerOf(await written(bytes)), code(expected), why)

const ENTRIES: readonly [string, MetadataValue][] = [
  ['general.architecture', { text: 'llama' }],
  ['llama.block_count', { u32: 1 }],
  ['llama.attention.head_count', { u32: 2 }],
  ['llama.attention.layer_norm_rms_epsilon', { f32: 1e-5 }],
  ['tokenizer.ggml.tokens', { texts: ['a', 'é', '\uFEFF'] }],
  ['tokenizer.ggml.scores', { f32s: [0, -1, -2] }],
  ['tokenizer.ggml.token_type', { i32s: [1, 1, 3] }],
  ['tokenizer.ggml.add_bos_token', { flag: true }],
]
const TENSORS = [
  { name: 'token_embd.weight', dims: [3, 4], values: Float32Array.from({ length: 12 }, (_, i) => i) },
  { name: 'output_norm.weight', dims: [4], values: Float32Array.of(1, 2, 3, 4) },
]
const GOOD = ggufBytes(ENTRIES, TENSORS)

/** A file with a header of these counts and bytes, and nothing more. */
function file(
  tensors: number | bigint,
  entries: number | bigint,
  rest: (out: Fields) => void = () => undefined,
): Uint8Array {
  const out = new Fields()
  out.bytes(Buffer.from('GGUF'))
  out.u32(3)
  for (const count of [tensors, entries]) out.bytes(new Uint8Array(BigUint64Array.of(BigInt(count)).buffer))
  rest(out)
  return out.joined()
}

const u64 = (value: bigint) => new Uint8Array(BigUint64Array.of(value).buffer)

describe('a GGUF header', () => {
  test('is read as it was written', async () => {
    const { metadata, tensors } = await headerOf(await written(GOOD))
    const plain = (value: GgufValue) =>
      typeof value !== 'object' ? value : value.kind === 'texts' ? value.decode() : Array.from(value.values)
    assert.deepEqual(
      [...metadata].map(([key, value]) => [key, plain(value)]),
      ENTRIES.map(([key, value]) => [key, Object.values(value)[0]]),
    )
    const embedding = tensors.get('token_embd.weight')!
    assert.deepEqual([embedding.type, embedding.dims, embedding.end - embedding.start], ['F32', [3, 4], 48])
    assert.equal(embedding.start % 32, 0)
    assert.equal(tensors.get('output_norm.weight')!.start, embedding.start + 64)
  })

  test('longer than what is read at once is read whole', async () => {
    const texts = Array.from({ length: 60_000 }, (_, i) => `a token of some length, number ${i}`)
    const path = await written(ggufBytes([['tokenizer.ggml.tokens', { texts }]], TENSORS))
    const tokens = (await headerOf(path)).metadata.get('tokenizer.ggml.tokens')
    assert.ok(typeof tokens === 'object' && tokens.kind === 'texts')
    assert.deepEqual(tokens.decode(), texts)
  })

  test('of version 2 is the same', async () => {
    const bytes = Buffer.from(GOOD)
    bytes.writeUInt32LE(2, 4)
    assert.equal((await headerOf(await written(bytes))).tensors.size, 2)
  })
})

describe('a model in several files', () => {
  test('is found from the first only, and must be whole', async () => {
    const first = await convertFolder(fixture('llama'), join(folder, 'parts'), { parts: 3 })
    const { files } = await partsOf(first)
    assert.equal(files.length, 3)
    await assert.rejects(partsOf(files[1]!), { code: 'model_incomplete', message: /not the first/ })
    await rm(files[2]!)
    await assert.rejects(readModelShape(first), {
      code: 'model_incomplete',
      details: { file: 'parts-00003-of-00003.gguf' },
    })
  })

  test('must be named so', async () => {
    const split: [string, MetadataValue][] = [
      ['split.no', { u16: 0 }],
      ['split.count', { u16: 3 }],
    ]
    await assert.rejects(partsOf(await written(ggufBytes(split, TENSORS), 'alone.gguf')), code('model_incomplete'))
  })

  test('that does not exist is incomplete', async () => {
    await assert.rejects(readModelShape(join(folder, 'none.gguf')), code('model_incomplete'))
  })
})

describe('a hostile GGUF file is refused', () => {
  test('truncated at every length', async () => {
    const path = await written(GOOD)
    for (let length = GOOD.length - 17; length >= 0; length--) {
      await truncate(path, length)
      await assert.rejects(headerOf(path), code('model_bad_weights'), `at ${length}`)
    }
  })

  test('that is another kind of file, version or byte order', async () => {
    await refuses(Buffer.from('PK\x03\x04 an archive of some kind'))
    const bytes = Buffer.from(GOOD)
    for (const version of [0, 1, 4]) {
      bytes.writeUInt32LE(version, 4)
      await refuses(bytes, 'model_unsupported', `version ${version}`)
    }
    bytes.writeUInt32BE(3, 4)
    await refuses(bytes, 'model_unsupported')
  })

  const huge = [1n << 20n, 1n << 32n, 1n << 53n, (1n << 64n) - 1n]
  test('with counts and lengths beyond what it has', async () => {
    for (const count of huge) {
      await refuses(file(count, 0), undefined, `${count} tensors`)
      await refuses(file(0, count), undefined, `${count} entries`)
      await refuses(
        file(0, 1, (out) => out.bytes(u64(count))),
        undefined,
        `a key of ${count}`,
      )
      const value = (...parts: Uint8Array[]) =>
        file(0, 1, (out) => {
          out.text('k')
          for (const part of parts) out.bytes(part)
        })
      const type = (id: number) => new Uint8Array(Uint32Array.of(id).buffer)
      await refuses(value(type(8), u64(count)), undefined, `a text of ${count}`)
      for (const inner of [0, 5, 8, 12])
        await refuses(value(type(9), type(inner), u64(count), new Uint8Array(64)), undefined, `${count} of ${inner}`)
      await refuses(value(type(9), type(9), u64(count)), undefined, 'arrays of arrays')
      await refuses(value(type(13)), undefined, 'a type that is none')
    }
  })

  const record = (name: string, dims: readonly bigint[], type: number, offset: bigint) =>
    file(1, 0, (out) => {
      out.text(name)
      out.u32(dims.length)
      for (const dim of dims) out.bytes(u64(dim))
      out.u32(type)
      out.bytes(u64(offset))
      out.bytes(new Uint8Array(128))
    })
  const tensors: [string, Uint8Array, string?][] = [
    ['beyond the file', record('a', [1n << 20n], 0, 0n)],
    ['whose size overflows', record('a', [1n << 40n, 1n << 40n], 0, 0n)],
    ['whose size wraps around', record('a', [1n << 32n, 1n << 32n], 0, 0n)],
    ['with a dimension beyond numbers', record('a', [1n << 63n], 0, 0n)],
    ['with no numbers', record('a', [0n, 8n], 0, 0n)],
    ['with five dimensions', record('a', [1n, 1n, 1n, 1n, 1n], 0, 0n)],
    ['with no dimension', record('a', [], 0, 0n)],
    ['at another place', record('a', [4n], 0, 32n)],
    ['at a place beyond numbers', record('a', [4n], 0, (1n << 64n) - 32n)],
    ['whose rows are no whole blocks', record('a', [16n, 2n], 8, 0n)],
    ['of a type that is not read', record('a', [256n], 23, 0n), 'model_unsupported'],
    ['of a type that is none', record('a', [256n], 1000, 0n), 'model_unsupported'],
    ['with an endless name', record('a'.repeat(2000), [4n], 0, 0n)],
  ]
  for (const [what, bytes, expected] of tensors) test(`with a tensor ${what}`, () => refuses(bytes, expected))

  test('with something twice', async () => {
    await refuses(ggufBytes([...ENTRIES, ...ENTRIES.slice(0, 1)], TENSORS))
    await refuses(ggufBytes(ENTRIES, [...TENSORS, ...TENSORS.slice(0, 1)]))
  })

  test('with an alignment that is none', async () => {
    for (const u32 of [0, 3, 1 << 30]) await refuses(ggufBytes([['general.alignment', { u32 }]], TENSORS))
    await refuses(ggufBytes([['general.alignment', { text: '32' }]], TENSORS))
  })

  test('with more layers than any model, before a list of them is made', async () => {
    const layers: [string, MetadataValue][] = [
      ['general.architecture', { text: 'smollm3' }],
      ['smollm3.block_count', { u32: 2 ** 32 - 1 }],
    ]
    await assert.rejects(readModelShape(await written(ggufBytes(layers, TENSORS))), code('model_bad_config'))
  })

  test('by the name of what is not computed', async () => {
    const other: [string, MetadataValue][] = [['general.architecture', { text: 'rwkv7' }]]
    await assert.rejects(readModelShape(await written(ggufBytes(other, TENSORS))), {
      code: 'model_unsupported',
      details: { option: 'general.architecture', value: 'rwkv7' },
    })
  })
})
