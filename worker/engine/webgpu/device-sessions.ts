import { env, InferenceSession, Tensor } from 'onnxruntime-node'
import { asHeadraceError, HeadraceError } from '../../../shared/errors.ts'

/** Where graphs run. `cpu` runs the same graphs in host memory: what they compute can be tested without a GPU. */
export type Provider = 'webgpu' | 'cpu'

/** A tensor that stays where it was computed until it is disposed. */
export type DeviceTensor = Tensor
export type DeviceTensors = Readonly<Record<string, DeviceTensor>>

/** Dispatches that are collected before they are handed to the driver: more than a graph here has, so that one call is one hand-over. */
const PENDING_DISPATCHES = '32'

/**
 * Sessions by name whose outputs stay on the device: one's output is another's input without a copy. The binding knows
 * no other way to a tensor on the device than a graph that makes one, and none from it but a graph with a host output.
 */
export class DeviceSessions {
  readonly provider: Provider
  readonly #sessions = new Map<string, InferenceSession>()

  constructor(provider: Provider) {
    this.provider = provider
  }

  /** @param leaves the outputs are read by the host */
  async add(name: string, model: Uint8Array, leaves = false): Promise<void> {
    env.logLevel = 'fatal'
    try {
      this.#sessions.set(name, await InferenceSession.create(model, sessionOptions(this.provider, leaves)))
    } catch (cause) {
      throw failed(`creating ${name}`, cause)
    }
  }

  async run(name: string, inputs: DeviceTensors): Promise<DeviceTensors> {
    const session = this.#sessions.get(name)
    if (session === undefined) throw new HeadraceError('internal', `there is no graph ${name}`)
    try {
      return await session.run(inputs)
    } catch (cause) {
      throw failed(name, cause)
    }
  }

  async release(): Promise<void> {
    for (const session of this.#sessions.values()) await session.release()
    this.#sessions.clear()
  }
}

/** Numbers of the host as an input: they are copied to the device with each call. */
export const hostTensor = (data: Float32Array<ArrayBuffer>, dims: readonly number[]): Tensor =>
  new Tensor('float32', data, dims)

/** Whole numbers as an input, such as the bounds of a slice. */
export const hostInts = (...values: number[]): Tensor =>
  new Tensor('int64', BigInt64Array.from(values, BigInt), [values.length])

function sessionOptions(provider: Provider, leaves: boolean): InferenceSession.SessionOptions {
  const common = {
    executionMode: 'sequential',
    intraOpNumThreads: 1,
    interOpNumThreads: 1,
    enableMemPattern: false,
    logSeverityLevel: 4,
  } as const
  if (provider === 'cpu') return { ...common, executionProviders: ['cpu'] }
  return {
    ...common,
    executionProviders: [{ name: 'webgpu', validationMode: 'basic' }],
    ...(leaves ? {} : { preferredOutputLocation: 'gpu-buffer' }),
    extra: {
      // A node without a kernel for the device would drag its operands through host memory, and say nothing.
      session: { disable_cpu_ep_fallback: '1' },
      ep: { webgpuexecutionprovider: { maxNumPendingDispatches: PENDING_DISPATCHES } },
    },
  } as InferenceSession.SessionOptions
}

const failed = (what: string, cause: unknown) =>
  new HeadraceError('engine_failed', `ONNX Runtime on the device, ${what}: ${asHeadraceError(cause).message}`, {
    cause,
  })
