import { test } from 'node:test'
import { asHeadraceError } from '../../../shared/errors.ts'
import { createEngine } from '../../../worker/engine/create-engine.ts'
import { probeAdapter } from '../../../worker/engine/webgpu/adapter.ts'
import { engineContract } from '../../contract/engine.contract.ts'
import { huggingFaceContract } from '../../contract/engine-huggingface.contract.ts'

const onWebGpu = {
  title: 'webgpu',
  // where a processor plays the GPU, a call takes milliseconds, and a long one seconds
  few: true,
  mostTokens: 64,
  create: (folder: string) => createEngine('onnx', folder, { threads: 1, device: 'webgpu', weights: 'f32' }),
}
const noAdapter = await probeAdapter().then(
  () => undefined,
  (thrown: unknown) => asHeadraceError(thrown).message,
)

if (noAdapter !== undefined) test('the webgpu engine', { skip: noAdapter }, () => undefined)
else {
  engineContract(onWebGpu)
  for (const folder of ['llama', 'gemma2', 'phi3-partial', 'mixtral']) huggingFaceContract(onWebGpu, folder)
}
