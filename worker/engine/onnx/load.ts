import { readModelShape } from '../../../shared/model-folder.ts'
import type { ModelShape } from '../../../shared/model-shape.ts'
import type { Engine, EngineOptions } from '../engine.ts'
import { bf16Linear } from './linear/bf16.ts'
import { f32Linear } from './linear/f32.ts'
import { int4BlocksLinear, int4WidenedLinear } from './linear/int4-formats.ts'
import { int8Linear } from './linear/int8.ts'
import { int8RowLinear } from './linear/int8-row.ts'
import { largestExactWeight } from './linear/self-test.ts'
import { OnnxEngine } from './onnx-engine.ts'
import { packedSessionCount } from './packed-sessions.ts'
import { packedAndStreamedWeights, packedWeights, streamedWeights, type WeightedGraphs } from './weighted-graphs.ts'

/** The ONNX engine with the model of a folder. */
export async function loadOnnxEngine(folder: string, options: EngineOptions): Promise<Engine> {
  const shape = await readModelShape(folder)
  return OnnxEngine.create(shape, await weightsOf(folder, shape, options), options.threads)
}

/** Each takes a millisecond to make and some hundred kilobytes: models of thousands of small experts are not packed. */
const MOST_PACKED_SESSIONS = 1024

async function weightsOf(folder: string, shape: ModelShape, options: EngineOptions): Promise<WeightedGraphs> {
  const { weights, threads } = options
  const decodes = options.decodes && packedSessionCount(shape) <= MOST_PACKED_SESSIONS
  switch (weights) {
    case 'bf16':
      // packed, they would be float32 again
      return streamedWeights(folder, shape, bf16Linear(), options)
    case 'int8': {
      const largest = await largestExactWeight()
      const many = int8Linear(largest)
      if (!decodes) return streamedWeights(folder, shape, many, options)
      // what clips there may clip in the kernel for blocks too, which has no self-test
      if (largest < 127) return packedWeights(folder, shape, many, { threads, arena: true })
      return packedAndStreamedWeights(folder, shape, { one: int8RowLinear(many), many }, threads)
    }
    case 'int4':
      // packed alone, though many tokens are slower so: kept in both ways, they would take as much as 8 bits
      if (decodes) return packedWeights(folder, shape, int4BlocksLinear, { threads, arena: false })
      return streamedWeights(folder, shape, int4WidenedLinear(await largestExactWeight()), options)
    default:
      if (decodes) return packedWeights(folder, shape, f32Linear, { threads, arena: true })
      return streamedWeights(folder, shape, f32Linear, options)
  }
}
