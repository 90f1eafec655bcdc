import assert from 'node:assert/strict'
import { once } from 'node:events'
import { describe, test } from 'node:test'
import * as core from '@tensorflow/tfjs-core'
import { readModelShape } from '../../../shared/model-folder.ts'
import { acquireTensorFlow } from '../../../worker/engine/tfjs/tensorflow.ts'
import { TfjsEngine } from '../../../worker/engine/tfjs/tfjs-engine.ts'
import { tensorKeeping } from '../../../worker/engine/tfjs/weights.ts'
import { loadWeights } from '../../../worker/model/weights.ts'
import { expectedCases } from '../../support/hf-expected.ts'
import { maxAbsDifference } from '../../support/numbers.ts'
import { fixture } from '../../support/paths.ts'
import { PlainRun } from '../../support/plain-run.ts'

/**
 * What is done where `@tensorflow/tfjs-node` is installed. Its binary cannot be fetched everywhere tests run, so a stand-in
 * takes its place: TensorFlow.js' own back end in plain JavaScript under the native one's name.
 */
const NATIVE = '@tensorflow/tfjs-node'

const asInstalled = (native: () => unknown) => async (specifier: string) =>
  specifier === NATIVE ? native() : import(specifier)

const missing = () => {
  throw Object.assign(new Error(`Cannot find package '${NATIVE}' imported from here`), { code: 'ERR_MODULE_NOT_FOUND' })
}

describe('the tfjs engine looks for the native library', () => {
  test('and says nothing where it is not installed', async () => {
    const warned: Error[] = []
    const warn = (warning: Error) => warned.push(warning)
    process.on('warning', warn)
    const flow = await acquireTensorFlow(1, asInstalled(missing))
    assert.equal(flow.backend, 'wasm')
    assert.equal(core.getBackend(), 'wasm')
    flow.release()
    await new Promise(setImmediate)
    process.off('warning', warn)
    assert.deepEqual(warned, [])
  })

  for (const [what, native] of [
    ['does not load', () => assert.fail('the addon is not at its path')],
    ['has no back end', () => core],
  ] as const)
    test(`and warns where it is installed but ${what}`, async () => {
      const warned = once(process, 'warning')
      const flow = await acquireTensorFlow(1, asInstalled(native))
      assert.equal(flow.backend, 'wasm')
      flow.release()
      const [warning] = (await warned) as [Error]
      assert.match(warning.message, new RegExp(`${NATIVE} is installed but .*: computing with WebAssembly`))
    })

  test('and computes with it where it is installed', async () => {
    const { MathBackendCPU } = await import('@tensorflow/tfjs-backend-cpu')
    core.env().set('IS_TEST', true) // else it advertises the library that it stands in for
    core.copyRegisteredKernels('cpu', 'tensorflow')
    core.registerBackend('tensorflow', () => new MathBackendCPU())
    const flow = await acquireTensorFlow(
      1,
      asInstalled(() => core),
    )
    assert.equal(flow.backend, 'tensorflow')
    const folder = fixture('gemma2')
    const shape = await readModelShape(folder)
    const engine = new TfjsEngine(flow, shape, await loadWeights(folder, shape, tensorKeeping(flow, true)))
    const { ids, last_logits } = expectedCases(folder)[1]!
    const run = new PlainRun(engine, ids.length, { chunkTokens: 256, blockTokens: 20 })
    assert.ok(maxAbsDifference(await run.feed(ids), last_logits) < 2e-4)
    assert.equal(core.getBackend(), 'tensorflow')
    await engine.close()
    assert.equal(core.memory().numTensors, 0)
  })
})
