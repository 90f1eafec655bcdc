import type { EngineName, Weights } from '../../shared/engine-name.ts'
import { HeadraceError } from '../../shared/errors.ts'
import { readModelShape } from '../../shared/model-folder.ts'
import { loadWeights } from '../model/weights.ts'
import type { Engine } from './engine.ts'
import { ReferenceEngine } from './reference-engine.ts'

export interface EngineOptions {
  readonly threads: number
  /** Default: `f32`. */
  readonly weights?: Weights
}

/** The engine of this name, with the model of a Hugging Face folder loaded. The native library loads only if it is used. */
export async function createEngine(name: EngineName, folder: string, options: EngineOptions): Promise<Engine> {
  const kept = options.weights ?? 'f32'
  if (kept !== 'f32') throw new HeadraceError('bad_config', `the ${name} engine keeps weights as f32, not as ${kept}`)
  const shape = await readModelShape(folder)
  const weights = await loadWeights(folder, shape)
  switch (name) {
    case 'reference':
      return new ReferenceEngine(shape, weights)
    case 'onnx': {
      const { OnnxEngine } = await import('./onnx/onnx-engine.ts')
      return OnnxEngine.create(shape, weights, options.threads)
    }
  }
}
