import { readModelShape } from '../../../shared/model-folder.ts'
import { createEngine } from '../../../worker/engine/create-engine.ts'
import type { DeviceSessions } from '../../../worker/engine/webgpu/device-sessions.ts'
import { loadDeviceWeights } from '../../../worker/engine/webgpu/device-weights.ts'
import { buildDeviceEngine } from '../../../worker/engine/webgpu/load.ts'
import { engineContract } from '../../contract/engine.contract.ts'
import { huggingFaceContract } from '../../contract/engine-huggingface.contract.ts'

const onCpu = {
  title: 'graphs of a device on the CPU',
  create: async (folder: string) => {
    const shape = await readModelShape(folder)
    const load = (sessions: DeviceSessions) => loadDeviceWeights(folder, shape, sessions)
    return buildDeviceEngine({ model: { shape, element: 'float32' }, provider: 'cpu', threads: 1, load })
  },
}
const onWebGpu = {
  title: 'webgpu',
  slow: true, // where a processor plays the GPU
  create: (folder: string) => createEngine('onnx', folder, { threads: 1, device: 'webgpu', weights: 'f32' }),
}

for (const candidate of [onCpu, onWebGpu]) {
  engineContract(candidate)
  huggingFaceContract(candidate, 'llama')
  huggingFaceContract(candidate, 'llama3-rope')
}
