import assert from 'node:assert/strict'
import { mkdtemp, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { after, before, describe, test } from 'node:test'
import fc from 'fast-check'
import { HeadraceError } from '../../../shared/errors.ts'
import { WeightReader } from '../../../worker/model/weight-reader.ts'
import { randomInt, seededRandom } from '../../support/random.ts'
import { safetensors, withHeader } from '../../support/tiny-model.ts'

let folder: string
before(async () => {
  folder = await mkdtemp(join(tmpdir(), 'headrace-safetensors-'))
})
after(() => rm(folder, { recursive: true }))

async function openBytes(bytes: Uint8Array, name = 'model.safetensors'): Promise<WeightReader> {
  const path = join(folder, name)
  await writeFile(path, bytes)
  return WeightReader.open([path])
}

const isBadWeights = (error: unknown) => error instanceof HeadraceError && error.code === 'model_bad_weights'
const refuses = (bytes: Uint8Array, why?: string) => assert.rejects(openBytes(bytes), isBadWeights, why)

const VALUES = [0, 1, -1, 0.5, 1.5, -2.25, 65504, 2 ** -14, 2 ** -24, -(2 ** -20)]
const GOOD = safetensors(
  [
    { name: 'a', dims: [2, 5], values: VALUES },
    { name: 'b', dims: [3], values: [1, 2, 3] },
  ],
  'F32',
)
const entry = (dtype: string, shape: unknown, data_offsets: unknown) => ({ dtype, shape, data_offsets })

describe('a safetensors file', () => {
  for (const dtype of ['F32', 'F16', 'BF16'] as const)
    test(`of ${dtype} is read exactly as float32`, async () => {
      const exact = dtype === 'BF16' ? VALUES.filter((x) => Math.abs(x) !== 65504) : VALUES
      const reader = await openBytes(safetensors([{ name: 'a', dims: [exact.length], values: exact }], dtype))
      const target = new Float32Array(exact.length)
      await reader.read('a', [exact.length], target)
      await reader.close()
      assert.deepEqual([...target], exact)
    })

  test('longer than one piece is read whole', async () => {
    const random = seededRandom(5)
    const values = Array.from({ length: (5 << 20) / 4 }, () => Math.fround(random()))
    const reader = await openBytes(safetensors([{ name: 'a', dims: [values.length], values }], 'F32'))
    const target = new Float32Array(values.length)
    await reader.read('a', [values.length], target)
    await reader.close()
    assert.deepEqual(target, Float32Array.from(values))
  })

  test('keeps infinities and NaN of half precision', async () => {
    const bits = Uint16Array.of(0x7c00, 0xfc00, 0x7e00, 0x8000)
    const bytes = withHeader(JSON.stringify({ a: entry('F16', [4], [0, 8]) }), new Uint8Array(bits.buffer))
    const reader = await openBytes(bytes)
    const target = new Float32Array(4)
    await reader.read('a', [4], target)
    await reader.close()
    assert.deepEqual([...target], [Number.POSITIVE_INFINITY, Number.NEGATIVE_INFINITY, Number.NaN, -0])
  })

  test('names the tensor, the expected and the found shape when they differ', async () => {
    const reader = await openBytes(GOOD)
    const details = { tensor: 'a', expected: '[5,2]', found: '[2,5]' }
    assert.throws(() => reader.check('a', [5, 2]), { code: 'model_bad_tensor', details })
    assert.throws(() => reader.check('c', [5]), {
      code: 'model_bad_tensor',
      message: /^c: expected \[5\], found nothing/,
    })
    await reader.close()
  })

  test('may hold integers, which are refused only when they are asked for', async () => {
    const reader = await openBytes(withHeader(JSON.stringify({ ids: entry('I64', [2], [0, 16]) }), new Uint8Array(16)))
    assert.throws(() => reader.check('ids', [2]), { code: 'model_bad_tensor' })
    await reader.close()
  })

  test('is refused when a tensor is in two files', async () => {
    for (const name of ['one', 'two']) await writeFile(join(folder, name), GOOD)
    await assert.rejects(WeightReader.open([join(folder, 'one'), join(folder, 'two')]), isBadWeights)
  })
})

describe('a hostile safetensors file is refused', () => {
  test('truncated at every length', async () => {
    for (let length = 0; length < GOOD.length; length += 1) await refuses(GOOD.subarray(0, length), `at ${length}`)
  })

  test('with bytes after its tensors', () => refuses(Buffer.concat([GOOD, new Uint8Array(1)])))

  test('with a header length beyond the file, the limit, or what a number holds', async () => {
    for (const length of [BigInt(GOOD.length - 7), 100n << 20n, (100n << 20n) + 1n, 1n << 53n, (1n << 64n) - 1n]) {
      const bytes = Buffer.from(GOOD)
      bytes.writeBigUInt64LE(length)
      await refuses(bytes, String(length))
    }
  })

  const headers: [string, string, number?][] = [
    ['that is no JSON', '{"a"'],
    ['that is empty', ''],
    ['that is a list', '[]'],
    ['that is null', 'null'],
    ['with a tensor that is no object', '{"a":7}'],
    ['with an unknown dtype', JSON.stringify({ a: entry('F4', [2], [0, 1]) })],
    ['with an inherited name as dtype', JSON.stringify({ a: entry('toString', [0], [0, 0]) })],
    ['with a field more', JSON.stringify({ a: { ...entry('F32', [0], [0, 0]), x: 1 } })],
    ['with a negative dimension', JSON.stringify({ a: entry('F32', [-1, -4], [0, 16]) })],
    ['with a fractional dimension', JSON.stringify({ a: entry('F32', [0.5, 8], [0, 16]) })],
    ['with a dimension that is text', JSON.stringify({ a: entry('F32', ['4'], [0, 16]) })],
    ['with nine dimensions', JSON.stringify({ a: entry('F32', [4, 1, 1, 1, 1, 1, 1, 1, 1], [0, 16]) })],
    ['with a product that overflows', JSON.stringify({ a: entry('F32', [2 ** 40, 2 ** 40], [0, 16]) })],
    [
      'with a product that wraps to the right size in 64 bits',
      JSON.stringify({ a: entry('F32', [2 ** 32, 2 ** 32], [0, 0]) }),
    ],
    ['with offsets that do not match the shape', JSON.stringify({ a: entry('F32', [3], [0, 16]) })],
    ['with offsets backwards', JSON.stringify({ a: entry('F32', [4], [16, 0]) })],
    ['with three offsets', JSON.stringify({ a: entry('F32', [4], [0, 16, 16]) })],
    ['with a tensor beyond the file', JSON.stringify({ a: entry('F32', [5], [0, 20]) })],
    ['with a hole before a tensor', JSON.stringify({ a: entry('F32', [3], [4, 16]) })],
    ['with overlapping tensors', JSON.stringify({ a: entry('F32', [4], [0, 16]), b: entry('F32', [2], [8, 16]) })],
    [
      'with a name twice',
      '{"a":{"dtype":"F32","shape":[4],"data_offsets":[0,16]},"a":{"dtype":"F32","shape":[4],"data_offsets":[0,16]}}',
    ],
    [
      'with a name twice, once escaped',
      '{"a":{"dtype":"F32","shape":[4],"data_offsets":[0,16]},"\\u0061":{"dtype":"F32","shape":[4],"data_offsets":[0,16]}}',
    ],
    ['with a field twice', '{"a":{"dtype":"F16","dtype":"F32","shape":[4],"data_offsets":[0,16]}}'],
    [
      'with a name twice, spaced',
      '{"a" :{"dtype":"F32","shape":[4],"data_offsets":[0,16]},"a"\t\n: {"dtype":"F32","shape":[4],"data_offsets":[0,16]}}',
    ],
    ['with one long string of escapes', `{"${'\\\\n'.repeat(2_000_000)}":7}`],
    ['that nests deeply', '['.repeat(200_000)],
  ] // prettier-ignore
  for (const [what, header] of headers)
    test(`with a header ${what}`, () => refuses(withHeader(header, new Uint8Array(16))))

  test('with a header that is not UTF-8', async () => {
    const bytes = withHeader(JSON.stringify({ a: entry('F32', [4], [0, 16]) }), new Uint8Array(16))
    bytes[bytes.indexOf('a'.charCodeAt(0), 8)] = 0xff
    await refuses(bytes)
  })

  test('or is read, but never fails otherwise, whatever bytes of its header change', async () => {
    const random = seededRandom(9)
    const headerBytes = GOOD.length - 13 * 4
    for (let trial = 0; trial < 600; trial++) {
      const bytes = Buffer.from(GOOD)
      for (let change = 0; change <= randomInt(random, 3); change++)
        bytes[randomInt(random, headerBytes)] = randomInt(random, 256)
      await openBytes(bytes).then(
        (reader) => reader.close(),
        (error) => assert.ok(isBadWeights(error), String(error)),
      ) // prettier-ignore
    }
  })

  test('or is read, but never fails otherwise, whatever JSON its header is', async () => {
    const field = fc.oneof(fc.jsonValue(), fc.constant(entry('F32', [4], [0, 16])))
    await fc.assert(
      fc.asyncProperty(fc.dictionary(fc.string(), field), async (header) => {
        const opened = openBytes(withHeader(JSON.stringify(header), new Uint8Array(16)))
        await opened.then(
          (reader) => reader.close(),
          (error) => assert.ok(isBadWeights(error), String(error)),
        ) // prettier-ignore
      }),
      { numRuns: 200, seed: 4 },
    )
  })
})
