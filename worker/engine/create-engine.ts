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
      const onGpu = await webGpuEngine(folder, options)
      if (onGpu !== undefined) return onGpu
      const { loadOnnxEngine } = await import('./onnx/load.ts')
      return loadOnnxEngine(folder, options)
    }
    case 'tfjs': {
      const { loadTfjsEngine } = await import('./tfjs/load.ts')
      return loadTfjsEngine(folder, options)
    }
  }
}

/** `undefined` where the CPU is to compute: it was asked for, or there is no GPU. */
async function webGpuEngine(folder: string, options: EngineOptions): Promise<Engine | undefined> {
  const { device = 'cpu', weights, notice } = options
  if (device === 'cpu' || (device === 'auto' && weights !== undefined && weights !== 'f32')) return undefined
  const { loadWebGpuEngine } = await import('./webgpu/load.ts')
  try {
    return await loadWebGpuEngine(folder, options)
  } catch (thrown) {
    if (!(thrown instanceof HeadraceError) || thrown.code !== 'no_device') throw thrown
    notice?.(`${thrown.message}; the CPU computes instead`)
    return undefined
  }
}
