import assert from 'node:assert/strict'
import { describe, test } from 'node:test'
import { createEngine } from '../../../worker/engine/create-engine.ts'
import { MaskCache } from '../../../worker/engine/mask-cache.ts'
import { TensorPool } from '../../../worker/engine/onnx/tensor-pool.ts'
import { engineContract } from '../../contract/engine.contract.ts'
import { huggingFaceContract } from '../../contract/engine-huggingface.contract.ts'
import type { Candidate } from '../../support/candidate.ts'
import { FIXTURES } from '../../support/paths.ts'
import { createTinyModel } from '../../support/tiny-model.ts'

const asDecodeNode: Candidate = {
  title: 'onnx, with packed weights,',
  few: true,
  create: (folder) => createEngine('onnx', folder, { threads: 1, decodes: true }),
}

for (const candidate of ['onnx', asDecodeNode] as const) {
  engineContract(candidate)
  for (const folder of FIXTURES) huggingFaceContract(candidate, folder)
}

describe('the onnx engine', () => {
  test('fails by code, with the native reason, when a released tensor is used', async (t) => {
    const model = await createTinyModel()
    const engine = await createEngine('onnx', model.folder, { threads: 1 })
    t.after(() => engine.close().then(model.remove))
    const x = await engine.embed(Int32Array.of(1, 2, 3))
    const q = await engine.project(0, x, 0, engine.createKv(0, 3))
    const acc = engine.accumulator(q)
    engine.release(q)
    const kv = engine.createKv(0, 3)
    await assert.rejects(engine.attend(0, q, kv, acc), { code: 'engine_failed', message: /ONNX Runtime, attend/ })
    engine.release(x)
    await assert.rejects(engine.logits(x), { code: 'engine_failed' })
  })

  test('refuses a tensor of another kind, and a chunk larger than it asked for', async (t) => {
    const model = await createTinyModel()
    const engine = await createEngine('onnx', model.folder, { threads: 1 })
    t.after(() => engine.close().then(model.remove))
    await assert.rejects(engine.embed(new Int32Array(engine.chunkTokens + 1)), { code: 'internal' })
    await assert.rejects(engine.logits({ tokens: 3 }), { code: 'internal' })
  })
})

describe('the tensor pool', () => {
  test('gives memory back once, for about as much, and keeps no more than its bound', () => {
    const pool = new TensorPool()
    const { buffer } = pool.take(1000)
    pool.give(new Float32Array(buffer, 0, 1000))
    assert.notEqual(pool.take(1200).buffer, buffer)
    const again = pool.take(980)
    assert.equal(again.buffer, buffer)
    assert.deepEqual([again.length, again.byteOffset], [980, 0])
    assert.notEqual(pool.take(980).buffer, buffer)
    const large = Array.from({ length: 3 }, () => pool.take((32 << 20) / 4))
    for (const one of large) pool.give(one)
    const kept = new Set(large.map((one) => one.buffer))
    assert.equal(large.filter((one) => kept.has(pool.take(one.length).buffer)).length, 2)
  })

  test('wastes no more than an eighth', () => {
    const pool = new TensorPool()
    for (let length = 128; length < 1e7; length = Math.ceil(length * 1.37)) {
      const { byteLength } = pool.take(length).buffer
      assert.ok(byteLength >= 4 * length && byteLength < 4.5 * length + 64, `${byteLength} for ${length}`)
    }
  })

  test('lets go of sizes that nobody asks for any more, not of those in use', () => {
    const pool = new TensorPool()
    const [old, used] = [pool.take(1 << 20), pool.take(2 << 20)]
    pool.give(old)
    for (let run = 0; run < 100; run++) {
      pool.give(used)
      const other = pool.take((4 + (run % 5)) << 20)
      assert.equal(pool.take(used.length).buffer, used.buffer)
      pool.give(other)
    }
    assert.notEqual(pool.take(old.length).buffer, old.buffer)
  })
})

describe('the mask cache', () => {
  test('hides the keys after each query, at any offset', () => {
    const masks = new MaskCache()
    const visible = (offset: number) => [...masks.get(2, 3, offset)].map((value) => value === 0)
    assert.deepEqual(visible(0), [true, false, false, true, true, false])
    assert.deepEqual(visible(-1), [true, true, false, true, true, true])
    assert.deepEqual(visible(1), [false, false, false, true, false, false])
    assert.equal(masks.get(2, 3, 1), masks.get(2, 3, 1))
  })

  test('hides the keys before a window', () => {
    const masks = new MaskCache()
    const visible = (offset: number, window: number) => [...masks.get(2, 4, offset, window)].map((value) => value === 0)
    assert.deepEqual(visible(-2, 2), [false, true, true, false, false, false, true, true])
    assert.deepEqual(visible(-2, 1), [false, false, true, false, false, false, false, true])
    assert.deepEqual(visible(-9, 2), Array(8).fill(false))
  })
})
