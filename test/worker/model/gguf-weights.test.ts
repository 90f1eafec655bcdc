import assert from 'node:assert/strict'
import { mkdtemp, readFile, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { after, before, describe, test } from 'node:test'
import { GGML_TYPES } from '../../../shared/gguf/ggml-types.ts'
import { locateModel } from '../../../shared/model-folder.ts'
import { dequantise } from '../../../worker/model/dequantise.ts'
import { WeightReader } from '../../../worker/model/weight-reader.ts'
import { convertFolder } from '../../support/gguf/convert.ts'
import { fixture, fixtureNames } from '../../support/paths.ts'
import { createTinyModel } from '../../support/tiny-model.ts'

let folder: string
before(async () => {
  folder = await mkdtemp(join(tmpdir(), 'headrace-gguf-'))
})
after(() => rm(folder, { recursive: true }))

async function readAll(
  model: string,
  dims: ReadonlyMap<string, readonly number[]>,
): Promise<Map<string, Float32Array>> {
  const reader = await WeightReader.open((await locateModel(model)).weights)
  try {
    const all = new Map<string, Float32Array>()
    for (const name of [...reader.names()].sort()) {
      const values = new Float32Array(dims.get(name)!.reduce((a, b) => a * b, 1))
      await reader.read(name, dims.get(name)!, values)
      all.set(name, values)
    }
    return all
  } finally {
    await reader.close()
  }
}

async function dimsOf(model: string): Promise<Map<string, number[]>> {
  const { weights } = await locateModel(model)
  const dims = new Map<string, number[]>()
  for (const path of weights) {
    const file = await readFile(path)
    const header = JSON.parse(file.toString('utf8', 8, 8 + Number(file.readBigUInt64LE())))
    for (const [name, { shape }] of Object.entries<{ shape: number[] }>(header)) if (shape) dims.set(name, shape)
  }
  return dims
}

describe('the weights of a GGUF file', () => {
  for (const name of fixtureNames)
    test(`converted from ${name} are those of its folder, under the same names`, async () => {
      const dims = await dimsOf(fixture(name))
      const expected = await readAll(fixture(name), dims)
      const found = await readAll(await convertFolder(fixture(name), join(folder, `${name}.gguf`)), dims)
      assert.deepEqual([...found.keys()], [...expected.keys()])
      const gemma = name.startsWith('gemma')
      for (const [tensor, values] of expected) {
        const others = found.get(tensor)!
        // one was added to a norm and taken away
        const error = gemma && tensor.endsWith('norm.weight') ? 1e-6 : 0
        assert.ok(values.length === others.length && values.every((x, i) => Math.abs(x - others[i]!) <= error), tensor)
      }
    })

  test('in several files are those of one', async () => {
    const dims = await dimsOf(fixture('llama'))
    const first = await convertFolder(fixture('llama'), join(folder, 'split'), { parts: 3 })
    assert.equal((await locateModel(first)).weights.length, 3)
    assert.deepEqual(await readAll(first, dims), await readAll(fixture('llama'), dims))
  })

  for (const type of ['Q8_0', 'Q4_0'] as const)
    test(`of ${type} are there as blocks, in the order of Hugging Face's rows`, async (t) => {
      const model = await createTinyModel({ hidden: 64, headDim: 16, heads: 4, kvHeads: 2 })
      t.after(() => model.remove())
      const path = await convertFolder(model.folder, join(folder, `blocks-${type}.gguf`), { type })
      const reader = await WeightReader.open([path])
      for (const [name, rows] of [
        ['q', 64],
        ['k', 32],
        ['v', 32],
      ] as const) {
        const tensor = `model.layers.1.self_attn.${name}_proj.weight`
        const dims = [rows, 64]
        const values = new Float32Array(rows * 64)
        await reader.read(tensor, dims, values)
        const stored = reader.stored(tensor, dims)
        assert.deepEqual(stored, { type, bytes: ((rows * 64) / 32) * GGML_TYPES[type].bytes })
        const blocks = new Uint8Array(stored.bytes)
        await reader.readStored(tensor, dims, blocks)
        const widened = new Float32Array(rows * 64)
        dequantise(type, blocks, widened)
        assert.deepEqual(widened, values)
      }
      await reader.close()
    })

  test('whose rows are longer than a piece are read whole and in order', async (t) => {
    // 4 MiB are one piece: 1024 rows of 8 KiB are two
    const model = await createTinyModel({
      layers: 1,
      hidden: 2048,
      headDim: 256,
      heads: 4,
      kvHeads: 4,
      ffn: 8,
      vocab: 8,
    })
    t.after(() => model.remove())
    const dims = await dimsOf(model.folder)
    const path = await convertFolder(model.folder, join(folder, 'wide.gguf'))
    assert.deepEqual(await readAll(path, dims), await readAll(model.folder, dims))
  })

  test('that a model needs otherwise are refused by name', async () => {
    const reader = await WeightReader.open([await convertFolder(fixture('llama'), join(folder, 'named.gguf'))])
    const name = 'model.layers.0.self_attn.q_proj.weight'
    assert.throws(() => reader.check(name, [64, 32]), {
      code: 'model_bad_tensor',
      details: { tensor: name, expected: '[64,32]', found: '[64,64]' },
    })
    await reader.close()
  })
})
