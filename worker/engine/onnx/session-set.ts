import { env, InferenceSession, Tensor } from 'onnxruntime-node'
import { asHeadraceError, HeadraceError } from '../../../shared/errors.ts'
import type { Floats } from '../host-tensors.ts'
import { NOTHING } from './graph-builder.ts'

/** A buffer and its dimensions: what a graph reads from, or writes into. */
export type Slot = readonly [
  data:
    | Floats
    | Uint16Array<ArrayBuffer>
    | Int8Array<ArrayBuffer>
    | Uint8Array<ArrayBuffer>
    | BigInt64Array<ArrayBuffer>,
  dims: readonly number[],
]
export type Slots = Readonly<Record<string, Slot>>

/** Sessions by name. ONNX Runtime says nothing on its own: what fails is thrown. */
export class SessionSet {
  readonly #threads: number
  readonly #arena: boolean
  readonly #renewable: boolean
  readonly #models = new Map<string, Uint8Array>()
  readonly #sessions = new Map<string, Promise<InferenceSession>>()

  /**
   * @param arena each session keeps memory for its next call: for few sessions, each called often
   * @param renewable models are kept for `renew`: not where weights are part of them, which would be there twice
   */
  constructor(threads: number, { arena = true, renewable = true } = {}) {
    this.#threads = threads
    this.#arena = arena
    this.#renewable = renewable
  }

  async add(name: string, model: Uint8Array): Promise<void> {
    if (this.#renewable) this.#models.set(name, model)
    const session = this.#create(name, model)
    this.#sessions.set(name, session)
    await session
  }

  has(name: string): boolean {
    return this.#sessions.has(name)
  }

  /**
   * Computes in place: `outputs` are written where they lie. Once all is computed the binding copies each output into a new
   * ArrayBuffer, though it was told where to write: a third of a millisecond and a MiB of garbage for each MiB. It copies
   * nothing if the first output is no tensor, about which it complains instead: so where that pays, a graph has such a one.
   */
  async run(name: string, inputs: Slots, outputs: Slots): Promise<void> {
    const session = await this.#sessions.get(name)
    const fetches = bytesOf(outputs) < LEAST_COPIED_BYTES ? tensors(outputs) : { [NOTHING]: null, ...tensors(outputs) }
    try {
      await session?.run(tensors(inputs), fetches)
    } catch (cause) {
      if (!(NOTHING in fetches && isDone(cause))) throw failed(name, cause)
    }
  }

  /**
   * Gives back what the arenas keep. ONNX Runtime lets go of it only with the session (the run option that shrinks an arena
   * is not one that its Node binding passes on), so each is made anew, in some milliseconds. No call may be running; one
   * that comes meanwhile waits, and is told if that failed.
   */
  renew(): void {
    for (const [name, model] of this.#models) {
      const renewed = this.#renewed(name, model)
      renewed.catch(() => undefined) // it is for `run` to tell
      this.#sessions.set(name, renewed)
    }
  }

  async release(): Promise<void> {
    for (const name of this.#sessions.keys()) await this.#release(name)
    this.#sessions.clear()
    this.#models.clear()
  }

  async #renewed(name: string, model: Uint8Array): Promise<InferenceSession> {
    await this.#release(name)
    return this.#create(name, model)
  }

  /** What could not be made holds nothing. */
  async #release(name: string): Promise<void> {
    const session = await this.#sessions.get(name)?.catch(() => undefined)
    await session?.release()
  }

  async #create(name: string, model: Uint8Array): Promise<InferenceSession> {
    env.logLevel = 'fatal'
    try {
      return await InferenceSession.create(model, sessionOptions(this.#threads, this.#arena))
    } catch (cause) {
      throw failed(`creating ${name}`, cause)
    }
  }
}

/** One call of a graph that is not needed again. */
export async function runOnce(model: Uint8Array, inputs: Slots, outputs: Slots): Promise<void> {
  const sessions = new SessionSet(1)
  await sessions.add('once', model)
  await sessions.run('once', inputs, outputs)
  await sessions.release()
}

/** Copying less than this takes no longer than the complaint. */
const LEAST_COPIED_BYTES = 2 ** 15

/** What the binding says of an output that is no tensor, after the call. */
const isDone = (thrown: unknown): boolean =>
  thrown instanceof Error && thrown.message === 'Non tensor type is temporarily not supported.'

export const bytesOf = (slots: Slots): number =>
  Object.values(slots).reduce((sum, [{ byteLength }]) => sum + byteLength, 0)

function sessionOptions(threads: number, enableCpuMemArena: boolean): InferenceSession.SessionOptions {
  return {
    executionProviders: ['cpu'],
    executionMode: 'sequential',
    intraOpNumThreads: threads,
    interOpNumThreads: 1,
    // a pattern is kept per shape seen, and decoding sees a new shape with every token
    enableMemPattern: false,
    enableCpuMemArena,
    logSeverityLevel: 4,
    // a spinning thread eats the core that another process of this host, or this one's sockets, could use
    extra: { session: { 'intra_op.allow_spinning': '0' } },
  }
}

const tensors = (slots: Slots): Record<string, Tensor> =>
  Object.fromEntries(Object.entries(slots).map(([name, slot]) => [name, tensorOf(slot)]))

/** Half precision numbers come as their bits. */
function tensorOf([data, dims]: Slot): Tensor {
  if (data instanceof Float32Array) return new Tensor('float32', data, dims)
  if (data instanceof Int8Array) return new Tensor('int8', data, dims)
  if (data instanceof BigInt64Array) return new Tensor('int64', data, dims)
  return data instanceof Uint16Array ? new Tensor('float16', data, dims) : new Tensor('uint8', data, dims)
}

const failed = (what: string, cause: unknown) =>
  new HeadraceError('engine_failed', `ONNX Runtime, ${what}: ${asHeadraceError(cause).message}`, { cause })
