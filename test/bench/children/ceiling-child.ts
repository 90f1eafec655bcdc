import { env, InferenceSession, Tensor } from 'onnxruntime-node'
import type { CeilingKind, Product } from '../harness/ceiling.ts'
import { productModel } from '../harness/product-model.ts'
import { median } from '../harness/statistics.ts'
import { serve } from './serve.ts'

/** What the machine gives: ONNX Runtime's own matrix product and nothing else, as a process of its own. */

const MOST_CALLS = 40
const LEAST_CALLS = 5
const MOST_MS = 700

serve({
  /** Milliseconds of one product among several calls, the median. Weights are constants, so that they can be packed once. */
  async product({ kind, threads, product }: { kind: CeilingKind; threads: number; product: Product }) {
    env.logLevel = 'fatal'
    const { m, k, n } = product
    const session = await InferenceSession.create(productModel(kind, product), {
      executionProviders: ['cpu'],
      intraOpNumThreads: threads,
      interOpNumThreads: 1,
      logSeverityLevel: 4,
    })
    const x = kind === 'f32' ? new Tensor('float32', values(m * k), [m, k]) : new Tensor('uint8', bytes(m * k), [m, k])
    const y =
      kind === 'f32'
        ? new Tensor('float32', new Float32Array(m * n), [m, n])
        : new Tensor('int32', new Int32Array(m * n), [m, n])
    const ms: number[] = []
    const begun = performance.now()
    for (let call = 0; call < MOST_CALLS; call++) {
      const started = performance.now()
      await session.run({ x }, { y })
      ms.push(performance.now() - started)
      if (call >= LEAST_CALLS && performance.now() - begun > MOST_MS) break
    }
    await session.release()
    return { ms: median(ms) }
  },
})

const values = (count: number): Float32Array =>
  Float32Array.from({ length: count }, (_, i) => ((i * 37) % 101) / 50 - 1)
const bytes = (count: number): Uint8Array => Uint8Array.from({ length: count }, (_, i) => (i * 37) % 251)
