import { readModelShape } from '../../../shared/model-folder.ts'
import { createEngine } from '../../../worker/engine/create-engine.ts'
import { loadDeviceWeights } from '../../../worker/engine/webgpu/device-weights.ts'
import { buildDeviceEngine } from '../../../worker/engine/webgpu/load.ts'
import { engineContract } from '../../contract/engine.contract.ts'
import { huggingFaceContract } from '../../contract/engine-huggingface.contract.ts'

const onCpu = {
  title: 'graphs of a device on the CPU',
  create: async (folder: string) => {
    const shape = await readModelShape(folder)
    return buildDeviceEngine({ shape, element: 'float32' }, 'cpu', 1, (sessions) => loadDeviceWeights(folder, shape, sessions))
  },
}
const onWebGpu = {
  title: 'webgpu',
  create: (folder: string) => createEngine('onnx', folder, { threads: 1, device: 'webgpu', weights: 'f32' }),
}

for (const candidate of [onCpu, onWebGpu]) {
  engineContract(candidate)
  huggingFaceContract(candidate, 'llama')
  huggingFaceContract(candidate, 'llama3-rope')
}
