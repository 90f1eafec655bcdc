import type { Weights } from '../../../shared/engine-name.ts'
import { readModelShape } from '../../../shared/model-folder.ts'
import { loadWeights } from '../../model/weights.ts'
import type { Engine } from '../engine.ts'
import { bf16Linear } from './linear/bf16.ts'
import { f32Linear } from './linear/f32.ts'
import { int8Linear } from './linear/int8.ts'
import type { LinearFormat } from './linear/linear.ts'
import { largestExactWeight } from './linear/self-test.ts'
import { OnnxEngine } from './onnx-engine.ts'

/** The ONNX engine with the model of a folder, its weights kept as asked. */
export async function loadOnnxEngine(folder: string, weights: Weights, threads: number): Promise<Engine> {
  switch (weights) {
    case 'f32':
      return load(folder, f32Linear, threads)
    case 'bf16':
      return load(folder, bf16Linear(), threads)
    case 'int8':
      return load(folder, int8Linear(await largestExactWeight()), threads)
  }
}

async function load<M extends { readonly out: number }>(folder: string, linear: LinearFormat<M>, threads: number) {
  const shape = await readModelShape(folder)
  return OnnxEngine.create(shape, linear, await loadWeights(folder, shape, linear), threads)
}
