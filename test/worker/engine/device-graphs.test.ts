import assert from 'node:assert/strict'
import { execFileSync } from 'node:child_process'
import { describe, test } from 'node:test'
import { readModelShape } from '../../../shared/model-folder.ts'
import { createEngine } from '../../../worker/engine/create-engine.ts'
import type { DeviceModel } from '../../../worker/engine/webgpu/device-model.ts'
import type { DeviceSessions } from '../../../worker/engine/webgpu/device-sessions.ts'
import { loadDeviceWeights } from '../../../worker/engine/webgpu/device-weights.ts'
import { buildDeviceEngine } from '../../../worker/engine/webgpu/load.ts'
import { OneAtATime } from '../../../worker/engine/webgpu/one-at-a-time.ts'
import { engineContract } from '../../contract/engine.contract.ts'
import { huggingFaceContract } from '../../contract/engine-huggingface.contract.ts'
import { argmax, maxAbsDifference } from '../../support/numbers.ts'
import { bundledModel, FIXTURES } from '../../support/paths.ts'
import { PlainRun } from '../../support/plain-run.ts'
import { createTinyModel } from '../../support/tiny-model.ts'

/** The graphs of a GPU, in host memory: what they compute is the same, and every machine can. */
async function engineOnCpu(folder: string, element: DeviceModel['element'] = 'float32') {
  const shape = await readModelShape(folder)
  const load = (sessions: DeviceSessions) => loadDeviceWeights(folder, shape, sessions)
  return buildDeviceEngine({ model: { shape, element }, provider: 'cpu', threads: 1, load })
}

const onCpu = { title: 'device on the CPU', few: true, create: (folder: string) => engineOnCpu(folder) }
engineContract(onCpu)
for (const folder of FIXTURES) huggingFaceContract(onCpu, folder)

describe('float16 on a device', () => {
  test('stays near float32 and gives the same answer', async (t) => {
    const [half, single] = [await engineOnCpu(bundledModel, 'float16'), await engineOnCpu(bundledModel)]
    t.after(() => Promise.all([half.close(), single.close()]))
    const ids = Array.from({ length: 200 }, (_, i) => (i * 7919) % half.shape.vocab)
    const logitsOf = (engine: typeof half) => new PlainRun(engine, 200, { chunkTokens: 90, blockTokens: 128 }).feed(ids)
    const [found, exact] = [await logitsOf(half), await logitsOf(single)]
    const error = maxAbsDifference(found, exact)
    assert.ok(error > 1e-5 && error < 0.05, `off by ${error}`)
    assert.equal(argmax(found), argmax(exact))
  })
})

describe('the engine of a device', () => {
  test('fails by code when a released tensor is used, and goes on', async (t) => {
    const model = await createTinyModel()
    const engine = await engineOnCpu(model.folder)
    t.after(() => engine.close().then(model.remove))
    const x = await engine.embed(Int32Array.of(1, 2, 3))
    const kept = await engine.embed(Int32Array.of(1, 2, 3))
    engine.release(x)
    await assert.rejects(engine.logits(x), { code: 'engine_failed', message: /on the device, logits/ })
    assert.equal((await engine.logits(kept)).length, engine.shape.vocab)
  })

  test('refuses keys that were never written, tensors of another kind, and too large a chunk', async (t) => {
    const model = await createTinyModel()
    const engine = await engineOnCpu(model.folder)
    t.after(() => engine.close().then(model.remove))
    const x = await engine.embed(Int32Array.of(1, 2, 3))
    const q = await engine.project(0, x, 8, engine.createKv(8, 3))
    await assert.rejects(engine.attend(0, q, engine.createKv(0, 8), engine.accumulator(q)), { code: 'internal' })
    await assert.rejects(engine.logits({ tokens: 3 }), { code: 'internal' })
    await assert.rejects(engine.embed(new Int32Array(engine.chunkTokens + 1)), { code: 'internal' })
  })

  test('refuses weights that a GPU does not keep, before it looks for one', async (t) => {
    const model = await createTinyModel()
    t.after(() => model.remove())
    const options = { threads: 1, weights: 'int8' } as const
    await assert.rejects(createEngine('onnx', model.folder, { ...options, device: 'webgpu' }), { code: 'bad_config' })
    const engine = await createEngine('onnx', model.folder, { ...options, device: 'auto' })
    await engine.close()
  })

  test('is the CPU, with a word about it, where there is no GPU', { skip: process.platform !== 'linux' }, async (t) => {
    const model = await createTinyModel()
    t.after(() => model.remove())
    const program = `
      const { createEngine } = await import(process.argv[1])
      const notice = (text) => console.log(text)
      const engine = await createEngine('onnx', process.argv[2], { threads: 1, device: 'webgpu', notice })
      console.log(engine.constructor.name)`
    const createEngineUrl = new URL('../../../worker/engine/create-engine.js', import.meta.url).href
    const env = { ...process.env, VK_DRIVER_FILES: '/dev/null', VK_ICD_FILENAMES: '/dev/null' }
    const args = ['--input-type=module', '-e', program, createEngineUrl, model.folder]
    const output = execFileSync(process.execPath, args, { encoding: 'utf8', env, stdio: ['ignore', 'pipe', 'ignore'] })
    assert.match(output, /no GPU that WebGPU can use: .*; the CPU computes instead\nOnnxEngine\n/)
  })
})

describe('one at a time', () => {
  test('keeps the order, and fails all that follows what nobody waited for', async () => {
    const queue = new OneAtATime()
    const seen: number[] = []
    const slow = queue.run(async () => {
      await new Promise(setImmediate)
      seen.push(1)
    })
    queue.do(async () => void seen.push(2))
    await assert.rejects(
      queue.run(() => Promise.reject(new Error('mine'))),
      /mine/,
    )
    await queue.run(async () => void seen.push(3))
    await slow
    assert.deepEqual(seen, [1, 2, 3])
    queue.do(() => Promise.reject(new Error('lost')))
    await assert.rejects(
      queue.run(async () => undefined),
      /lost/,
    )
    await assert.rejects(
      queue.run(async () => undefined),
      /lost/,
    )
  })
})
