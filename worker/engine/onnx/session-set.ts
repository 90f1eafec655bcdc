import { env, InferenceSession, Tensor } from 'onnxruntime-node'
import { asHeadraceError, HeadraceError } from '../../../shared/errors.ts'
import type { ModelShape } from '../../../shared/model-shape.ts'
import type { Floats } from '../host-tensors.ts'
import { GRAPHS, type GraphKind } from './graphs.ts'

/** A buffer and its dimensions: what a graph reads from, or writes into. */
export type Slot = readonly [data: Floats | Uint16Array | Int8Array, dims: readonly number[]]
export type Slots = Readonly<Record<string, Slot>>

/** One session of each kind of graph. ONNX Runtime says nothing on its own: what fails is thrown. */
export class SessionSet {
  readonly #sessions: ReadonlyMap<GraphKind, InferenceSession>

  private constructor(sessions: ReadonlyMap<GraphKind, InferenceSession>) {
    this.#sessions = sessions
  }

  static async create(shape: ModelShape, threads: number): Promise<SessionSet> {
    env.logLevel = 'fatal'
    const sessions = new Map<GraphKind, InferenceSession>()
    try {
      for (const kind of Object.keys(GRAPHS) as GraphKind[])
        sessions.set(kind, await InferenceSession.create(GRAPHS[kind](shape), sessionOptions(threads)))
    } catch (cause) {
      throw failed('creating the sessions', cause)
    }
    return new SessionSet(sessions)
  }

  /** Computes in place: `outputs` are written where they lie. */
  async run(kind: GraphKind, inputs: Slots, outputs: Slots): Promise<void> {
    try {
      await this.#sessions.get(kind)?.run(tensors(inputs), tensors(outputs))
    } catch (cause) {
      throw failed(kind, cause)
    }
  }

  async release(): Promise<void> {
    for (const session of this.#sessions.values()) await session.release()
  }
}

function sessionOptions(threads: number): InferenceSession.SessionOptions {
  return {
    executionProviders: ['cpu'],
    executionMode: 'sequential',
    intraOpNumThreads: threads,
    interOpNumThreads: 1,
    // a pattern is kept per shape seen, and decoding sees a new shape with every token
    enableMemPattern: false,
    logSeverityLevel: 4,
    // a spinning thread eats the core that another process of this host, or this one's sockets, could use
    extra: { session: { 'intra_op.allow_spinning': '0' } },
  }
}

const tensors = (slots: Slots): Record<string, Tensor> =>
  Object.fromEntries(Object.entries(slots).map(([name, [data, dims]]) => [name, tensor(data, dims)]))

/** Half precision numbers come as their bits. */
function tensor(data: Slot[0], dims: readonly number[]): Tensor {
  if (data instanceof Float32Array) return new Tensor('float32', data, dims)
  return data instanceof Int8Array ? new Tensor('int8', data, dims) : new Tensor('float16', data, dims)
}

const failed = (what: string, cause: unknown) =>
  new HeadraceError('engine_failed', `ONNX Runtime, ${what}: ${asHeadraceError(cause).message}`, { cause })
