import type { Tensor } from '@tensorflow/tfjs-core'
import { asHeadraceError, HeadraceError } from '../../../shared/errors.ts'
import { useWasmBackend } from './wasm-backend.ts'

export type Tf = typeof import('@tensorflow/tfjs-core')

/** The optional peer. */
const NATIVE = '@tensorflow/tfjs-node'

type Load = (specifier: string) => Promise<unknown>

/** TensorFlow.js with its back end chosen. */
export interface TensorFlow {
  readonly tf: Tf
  /** `tensorflow` is the native library of `@tensorflow/tfjs-node`. */
  readonly backend: 'tensorflow' | 'wasm'
  /** What the back end had to say and could not throw. */
  readonly problems: string[]
  /** Until `release`: a tensor that is made within no scope has to be kept, or it stays. */
  keep<T extends Tensor>(tensor: T): T
  /** Disposes of what was kept. The last user's gives memory and threads of the back end back. */
  release(): void
}

type Started = Pick<TensorFlow, 'tf' | 'backend' | 'problems'>

/** It is one per thread, whatever the number of engines. */
let shared: Promise<Started> | undefined
let users = 0

/** What all engines of this thread share, until the last of them releases it. `threads` and `load` of the first count. */
export async function acquireTensorFlow(threads: number, load?: Load): Promise<TensorFlow> {
  users++
  shared ??= startTensorFlow(threads, load)
  try {
    const started = await shared
    const kept: Tensor[] = []
    const keep = <T extends Tensor>(tensor: T): T => {
      kept.push(tensor)
      return tensor
    }
    return { ...started, keep, release: () => leave(started, kept) }
  } catch (thrown) {
    leave()
    throw thrown
  }
}

function leave(started?: Started, kept: readonly Tensor[] = []): void {
  for (const tensor of kept) tensor.dispose()
  users--
  if (users > 0) return
  shared = undefined
  if (started?.backend === 'wasm') started.tf.removeBackend('wasm')
}

/** On the native library where it is installed and loads, else on WebAssembly. */
async function startTensorFlow(threads: number, load: Load = (name) => import(name)): Promise<Started> {
  const native = await loadNative(load)
  if (native !== undefined) return { tf: native, backend: 'tensorflow', problems: [] }
  try {
    const tf = (await load('@tensorflow/tfjs-core')) as Tf
    const problems: string[] = []
    await useWasmBackend(tf, threads, problems)
    return { tf, backend: 'wasm', problems }
  } catch (cause) {
    throw new HeadraceError('engine_failed', `TensorFlow.js does not start: ${asHeadraceError(cause).message}`, {
      cause,
    })
  }
}

/** `undefined` where it is not installed. Where it is, but its binary was never fetched, a warning says so too. */
async function loadNative(load: Load): Promise<Tf | undefined> {
  try {
    const tf = (await load(NATIVE)) as Tf
    if (!(await tf.setBackend('tensorflow'))) throw new Error('its back end does not start')
    return tf
  } catch (thrown) {
    if (isMissing(thrown)) return undefined
    const { message } = asHeadraceError(thrown)
    process.emitWarning(`${NATIVE} is installed but does not work: computing with WebAssembly (${message})`)
    return undefined
  }
}

const isMissing = (thrown: unknown): boolean =>
  thrown instanceof Error &&
  'code' in thrown &&
  thrown.code === 'ERR_MODULE_NOT_FOUND' &&
  thrown.message.includes(`'${NATIVE}'`)
