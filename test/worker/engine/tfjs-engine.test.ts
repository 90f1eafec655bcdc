import assert from 'node:assert/strict'
import { writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { describe, test } from 'node:test'
import * as tf from '@tensorflow/tfjs-core'
import { createEngine } from '../../../worker/engine/create-engine.ts'
import { guardMemory, wasmThreads } from '../../../worker/engine/tfjs/wasm-backend.ts'
import { checkWasmMemory } from '../../../worker/engine/tfjs/weights.ts'
import { PRESETS } from '../../bench/models/presets.ts'
import { engineContract } from '../../contract/engine.contract.ts'
import { huggingFaceContract } from '../../contract/engine-huggingface.contract.ts'
import { FIXTURES, fixture } from '../../support/paths.ts'
import { PlainRun } from '../../support/plain-run.ts'
import { createTinyModel, safetensors, tinyTensors } from '../../support/tiny-model.ts'

engineContract('tfjs')
for (const folder of FIXTURES) huggingFaceContract('tfjs', folder)

describe('the tfjs engine', () => {
  for (const folder of ['gemma2', 'qwen3-moe'])
    test(`leaves no tensor behind after a run of ${folder}, and none at all once it is closed`, async (t) => {
      const other = await createEngine('tfjs', fixture('llama'), { threads: 1 }) // or all would be gone anyway
      t.after(() => other.close())
      const without = tf.memory().numTensors
      const engine = await createEngine('tfjs', fixture(folder), { threads: 1 })
      const before = tf.memory()
      const run = new PlainRun(engine, 60, { chunkTokens: 25, blockTokens: 20 })
      await run.feed(Array.from({ length: 50 }, (_, i) => i))
      await run.feed([7])
      const { numTensors, numBytes } = tf.memory()
      assert.ok(before.numTensors > without)
      assert.deepEqual({ numTensors, numBytes }, { numTensors: before.numTensors, numBytes: before.numBytes })
      await engine.close()
      assert.equal(tf.memory().numTensors, without)
    })

  test('fails by code when a released tensor is used, and leaves no tensor behind', async (t) => {
    const model = await createTinyModel()
    const engine = await createEngine('tfjs', model.folder, { threads: 1 })
    t.after(() => engine.close().then(model.remove))
    const { numTensors } = tf.memory()
    const x = await engine.embed(Int32Array.of(1, 2, 3))
    const kv = engine.createKv(0, 3)
    const q = await engine.project(0, x, 0, kv)
    const acc = engine.accumulator(q)
    engine.release(q)
    await assert.rejects(engine.attend(0, q, kv, acc), { code: 'engine_failed', message: /^TensorFlow\.js, attend: / })
    engine.release(x)
    await assert.rejects(engine.logits(x), { code: 'engine_failed', message: /^TensorFlow\.js, logits: / })
    assert.equal(tf.memory().numTensors, numTensors)
  })

  test('refuses weights that are not float32', async () => {
    for (const weights of ['bf16', 'int8'] as const)
      await assert.rejects(createEngine('tfjs', fixture('llama'), { threads: 1, weights }), { code: 'bad_config' })
  })

  test('keeps nothing of a model that cannot be loaded, beside one that is', async (t) => {
    const engine = await createEngine('tfjs', fixture('llama'), { threads: 1 })
    const broken = await createTinyModel()
    t.after(() => engine.close().then(broken.remove))
    const { numTensors } = tf.memory()
    await writeFile(join(broken.folder, 'model.safetensors'), safetensors(tinyTensors().slice(0, -1), 'F32'))
    await assert.rejects(createEngine('tfjs', broken.folder, { threads: 1 }), { code: 'model_bad_tensor' })
    assert.equal(tf.memory().numTensors, numTensors)
    engine.release(await engine.embed(Int32Array.of(1)))
  })
})

describe('the memory of WebAssembly', () => {
  test('takes what fits twice over, and refuses by code what does not', () => {
    checkWasmMemory(PRESETS.smol135, true)
    const large = { ...PRESETS.llama1b, hidden: 4096, ffn: 14_336 }
    assert.throws(() => checkWasmMemory(large, true), { code: 'out_of_memory', message: /onnx/ })
  })

  test('is not written to at address 0 once it is spent', () => {
    let left = 100
    const module = {
      _malloc: (bytes: number) => {
        left -= bytes
        return left < 0 ? 0 : 8
      },
      _free: () => undefined,
    }
    guardMemory(module)
    assert.equal(module._malloc(50), 8)
    assert.throws(() => module._malloc(51), { code: 'out_of_memory' })
  })
})

test('the wasm back end has no more threads than it can use, and one at least', () => {
  assert.equal(wasmThreads(8, 64), 4)
  assert.equal(wasmThreads(3, 64), 3)
  assert.equal(wasmThreads(8, 4), 2)
  assert.equal(wasmThreads(1, 64), 1)
  assert.equal(wasmThreads(2, 1), 1)
})
