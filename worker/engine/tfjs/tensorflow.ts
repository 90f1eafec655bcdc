import { asHeadraceError, HeadraceError } from '../../../shared/errors.ts'
import { useWasmBackend } from './wasm-backend.ts'

export type Tf = typeof import('@tensorflow/tfjs-core')

/** The optional peer. */
const NATIVE = '@tensorflow/tfjs-node'

type Load = (specifier: string) => Promise<unknown>

/** TensorFlow.js with its back end chosen. It is one per thread, so all engines of a thread share it. */
export interface TensorFlow {
  readonly tf: Tf
  /** `tensorflow` is the native library of `@tensorflow/tfjs-node`. */
  readonly backend: 'tensorflow' | 'wasm'
  /** What the back end had to say and could not throw. */
  readonly problems: string[]
}

let shared: Promise<TensorFlow> | undefined
let users = 0

/** Pair with `releaseTensorFlow`. `threads` of the first caller counts. */
export async function acquireTensorFlow(threads: number): Promise<TensorFlow> {
  users++
  shared ??= startTensorFlow(threads)
  try {
    return await shared
  } catch (thrown) {
    await releaseTensorFlow()
    throw thrown
  }
}

/** The last user's release gives the memory and threads of the WASM back end back. */
export async function releaseTensorFlow(): Promise<void> {
  users--
  if (users > 0) return
  const stopped = shared
  shared = undefined
  const started = await stopped?.catch(() => undefined) // whoever asked for it has the error
  if (started?.backend === 'wasm') started.tf.removeBackend('wasm')
}

/** On the native library where it is installed and loads, else on WebAssembly. */
export async function startTensorFlow(threads: number, load: Load = (name) => import(name)): Promise<TensorFlow> {
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
    if (await tf.setBackend('tensorflow')) return tf
    process.emitWarning(`${NATIVE} is installed but has no back end: computing with WebAssembly`)
  } catch (thrown) {
    if (isMissing(thrown)) return undefined
    const { message } = asHeadraceError(thrown)
    process.emitWarning(`${NATIVE} is installed but does not load: computing with WebAssembly (${message})`)
  }
  return undefined
}

const isMissing = (thrown: unknown): boolean =>
  thrown instanceof Error &&
  'code' in thrown &&
  thrown.code === 'ERR_MODULE_NOT_FOUND' &&
  thrown.message.includes(`'${NATIVE}'`)
