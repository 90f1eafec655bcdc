import type { Weights } from '../../../shared/engine-name.ts'
import { readModelShape } from '../../../shared/model-folder.ts'
import type { Engine, EngineOptions } from '../engine.ts'
import { bf16Linear } from './linear/bf16.ts'
import { f32Linear } from './linear/f32.ts'
import { int8Linear } from './linear/int8.ts'
import type { LinearFormat } from './linear/linear.ts'
import { largestExactWeight } from './linear/self-test.ts'
import { OnnxEngine } from './onnx-engine.ts'
import { packedWeights, streamedWeights } from './weighted-graphs.ts'

/** The ONNX engine with the model of a folder. */
export async function loadOnnxEngine(folder: string, options: EngineOptions): Promise<Engine> {
  switch (options.weights satisfies Weights | undefined) {
    case 'bf16':
      // packed, they would be float32 again
      return load(folder, bf16Linear(), { ...options, decodes: false })
    case 'int8':
      return load(folder, int8Linear(await largestExactWeight()), options)
    default:
      return load(folder, f32Linear, options)
  }
}

async function load<M extends { readonly out: number }>(
  folder: string,
  linear: LinearFormat<M>,
  { threads, decodes }: EngineOptions,
): Promise<Engine> {
  const shape = await readModelShape(folder)
  const weights = await (decodes ? packedWeights : streamedWeights)(folder, shape, linear, threads)
  return OnnxEngine.create(shape, weights, threads)
}
