import { env, InferenceSession, Tensor } from 'onnxruntime-node'
import { asHeadraceError, HeadraceError } from '../../shared/errors.ts'
import { type Element, GraphBuilder, type Value } from '../engine/onnx/graph-builder.ts'

export type SpeedElement = 'float32' | 'float16' | 'int8'
type Provider = 'cpu' | 'webgpu' | 'cuda'

/** Products in a call: making their operands, and asking for the call, must not count. */
const PRODUCTS = 8
/** Rows and columns of the products that are tried, until one takes long enough to be measured. */
const SIZES = [256, 1024, 4096] as const
/** A call that takes so many seconds is large enough. */
const ENOUGH_SECONDS = 0.05

/** Multiplications and additions a second of a device's matrix product through the runtime that engines use, in 1e9. */
export async function productGflops(
  provider: Provider,
  element: SpeedElement,
  threads: number,
  seconds: number,
): Promise<number> {
  let best = 0
  const deadline = performance.now() + seconds * 1000
  for (const size of SIZES) {
    const session = await open(provider, element === 'int8' ? int8Graph(size) : chainGraph(size, element), threads)
    const inputs = element === 'int8' ? int8Inputs(size) : chainInputs(size)
    const operations = 2 * size ** 3 * (element === 'int8' ? 1 : PRODUCTS)
    try {
      await run(session, inputs) // kernels are compiled, memory is touched
      let taken = 0
      do {
        const started = performance.now()
        await run(session, inputs)
        taken = (performance.now() - started) / 1000
        best = Math.max(best, operations / taken / 1e9)
      } while (taken >= ENOUGH_SECONDS / 16 && performance.now() < deadline && taken < seconds)
      if (taken > ENOUGH_SECONDS || performance.now() > deadline) return best
    } finally {
      await session.release()
    }
  }
  return best
}

/** A A A ..., of which one number leaves the device. A is made there, of two vectors, and keeps what it multiplies in size. */
function chainGraph(size: number, element: Element): Uint8Array {
  const g = new GraphBuilder()
  const angle = g.op('Mul', [g.input('rows', [size, 1]), g.input('columns', [1, size])])
  const single = g.op('Mul', [g.op('Sin', [angle]), g.float(Math.sqrt(2 / size))])
  const a = element === 'float32' ? single : g.op('Cast', [single], { to: { type: element } })
  let product: Value = a
  for (let i = 0; i < PRODUCTS; i++) product = g.op('MatMul', [product, a])
  const wide = element === 'float32' ? product : g.op('Cast', [product], { to: { type: 'float32' } })
  g.output('y', g.op('ReduceMax', [wide, g.ints(0, 1)], { keepdims: 0 }), [])
  return g.build('chain')
}

function chainInputs(size: number): Record<string, Tensor> {
  const line = Float32Array.from({ length: size }, (_, i) => Math.sin(i + 1) * 30)
  return { rows: new Tensor('float32', line, [size, 1]), columns: new Tensor('float32', line, [1, size]) }
}

/** 8-bit activations without, weights with a sign: what processors with dot products of bytes are made for. */
function int8Graph(size: number): Uint8Array {
  const g = new GraphBuilder()
  const product = g.op('MatMulInteger', [g.input('a', [size, size], 'uint8'), g.input('b', [size, size], 'int8')])
  const first = g.op('Slice', [product, g.ints(0), g.ints(1), g.ints(0)])
  g.output('y', g.op('Cast', [first], { to: { type: 'float32' } }), [1, size])
  return g.build('int8')
}

function int8Inputs(size: number): Record<string, Tensor> {
  const bytes = Uint8Array.from({ length: size * size }, (_, i) => i * 31)
  return {
    a: new Tensor('uint8', bytes, [size, size]),
    b: new Tensor('int8', new Int8Array(bytes.buffer), [size, size]),
  }
}

async function open(provider: Provider, model: Uint8Array, threads: number): Promise<InferenceSession> {
  env.logLevel = 'fatal'
  try {
    return await InferenceSession.create(model, {
      executionProviders: [provider],
      intraOpNumThreads: threads,
      logSeverityLevel: 4,
      ...(provider === 'cpu' ? {} : { extra: { session: { disable_cpu_ep_fallback: '1' } } }),
    })
  } catch (cause) {
    throw failed(provider, cause)
  }
}

async function run(session: InferenceSession, inputs: Record<string, Tensor>): Promise<void> {
  try {
    await session.run(inputs)
  } catch (cause) {
    throw failed('a product', cause)
  }
}

const failed = (what: string, cause: unknown) =>
  new HeadraceError('engine_failed', `ONNX Runtime, ${what}: ${asHeadraceError(cause).message}`, { cause })
