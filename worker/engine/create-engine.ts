import type { EngineName } from '../../shared/engine-name.ts'
import { HeadraceError } from '../../shared/errors.ts'
import { readModelShape } from '../../shared/model-folder.ts'
import { loadWeights } from '../model/weights.ts'
import type { Engine, EngineOptions } from './engine.ts'
import { PLAIN, ReferenceEngine } from './reference-engine.ts'

/** The engine of this name, with the model of a Hugging Face folder loaded. The native library loads only if it is used. */
export async function createEngine(name: EngineName, folder: string, options: EngineOptions): Promise<Engine> {
  const { weights = 'f32' } = options
  switch (name) {
    case 'reference': {
      if (weights !== 'f32')
        throw new HeadraceError('bad_config', `the reference engine keeps weights as f32, not as ${weights}`)
      const shape = await readModelShape(folder)
      return new ReferenceEngine(shape, await loadWeights(folder, shape, PLAIN))
    }
    case 'onnx': {
      if (options.device !== undefined && options.device !== 'cpu') {
        const { loadWebGpuEngine } = await import('./webgpu/load.ts')
        return loadWebGpuEngine(folder, options)
      }
      const { loadOnnxEngine } = await import('./onnx/load.ts')
      return loadOnnxEngine(folder, options)
    }
  }
}
