import { HeadraceError } from '../../../shared/errors.ts'
import { readModelShape } from '../../../shared/model-folder.ts'
import { loadWeights } from '../../model/weights.ts'
import type { Engine, EngineOptions } from '../engine.ts'
import { acquireTensorFlow } from './tensorflow.ts'
import { TfjsEngine } from './tfjs-engine.ts'
import { checkWasmMemory, tensorKeeping } from './weights.ts'

/** The TensorFlow.js engine with the model of a folder. */
export async function loadTfjsEngine(
  folder: string,
  { threads, weights = 'f32', head = true }: EngineOptions,
): Promise<Engine> {
  if (weights !== 'f32')
    throw new HeadraceError('bad_config', `the tfjs engine keeps weights as f32, not as ${weights}`)
  const shape = await readModelShape(folder)
  const flow = await acquireTensorFlow(threads)
  try {
    if (flow.backend === 'wasm') checkWasmMemory(shape, head)
    return new TfjsEngine(flow, shape, await loadWeights(folder, shape, tensorKeeping(flow, head)))
  } catch (thrown) {
    flow.release()
    throw thrown
  }
}
