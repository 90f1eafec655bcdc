import { createRequire } from 'node:module'
import { cpus } from 'node:os'
import { dirname, join } from 'node:path'
import { pathToFileURL } from 'node:url'
import { HeadraceError } from '../../../shared/errors.ts'
import type { Tf } from './tensorflow.ts'

const PACKAGE = '@tensorflow/tfjs-backend-wasm'
const require = createRequire(import.meta.url)

/** XNNPACK's thread pool in this build has at most so many, and no more than half the logical processors. */
const MOST_THREADS = 4

/** WebAssembly addresses 32 bits; Emscripten keeps the last page of 64 KiB. */
export const WASM_BYTES = 2 ** 32 - 2 ** 16

/** What of Emscripten's module is used here. */
interface WasmModule {
  tfjs?: object
  _malloc(bytes: number): number
  _free(address: number): void
  cwrap(name: string, returns: 'number' | null, takes: readonly 'number'[]): unknown
}

type ModuleFactory = (options: {
  locateFile(file: string): string | URL
  mainScriptUrlOrBlob: string
  printErr(line: string): void
}) => Promise<WasmModule>

export const wasmThreads = (wanted: number, processors = cpus().length): number =>
  Math.max(1, Math.min(wanted, Math.floor(processors / 2), MOST_THREADS))

/**
 * Makes `wasm` the back end of `tf`: SIMD, and threads if more than one is wanted and possible. The package's own way to
 * start it knows no threads in Node, prints what goes wrong, writes to address 0 when memory is spent, and leaves handlers
 * at the process. Here what it would print goes to `problems`, which a caller must look at: its kernels return nothing.
 */
export async function useWasmBackend(tf: Tf, threads: number, problems: string[]): Promise<void> {
  const { BackendWasm, setThreadsCount } = await import('@tensorflow/tfjs-backend-wasm')
  const count = wasmThreads(threads)
  const module = await startModule(count > 1, (line) => problems.push(line))
  guardMemory(module)
  setThreadsCount(count)
  if (tf.findBackendFactory('wasm') !== null) tf.removeBackend('wasm')
  tf.registerBackend('wasm', () => new BackendWasm(module as ConstructorParameters<typeof BackendWasm>[0]))
  await tf.setBackend('wasm')
}

async function startModule(threaded: boolean, printErr: (line: string) => void): Promise<WasmModule> {
  const name = threaded ? 'tfjs-backend-wasm-threaded-simd' : 'tfjs-backend-wasm'
  const script = require.resolve(`${PACKAGE}/wasm-out/${name}.js`)
  const binary = join(dirname(script), threaded ? `${name}.wasm` : `${name}-simd.wasm`)
  const factory = require(script) as ModuleFactory
  const module = await withoutNewHandlers(() =>
    factory({
      locateFile: (file) => (file.endsWith('.worker.js') ? threadScript(script) : binary),
      mainScriptUrlOrBlob: script,
      printErr,
    }),
  )
  const bind = (of: string, returns: 'number' | null, ...takes: 'number'[]) => module.cwrap(of, returns, takes)
  module.tfjs = {
    init: bind('init', null),
    initWithThreadsCount: bind('init_with_threads_count', null, 'number'),
    getThreadsCount: bind('get_threads_count', 'number'),
    registerTensor: bind('register_tensor', null, 'number', 'number', 'number'),
    disposeData: bind('dispose_data', null, 'number'),
    dispose: bind('dispose', null),
  }
  return module
}

/** The package has the script of its threads as a string, for a browser: as a `data:` address Node starts it too. */
function threadScript(mainScript: string): URL {
  const { wasmWorkerContents } = require(mainScript.replace(/\.js$/, '.worker.js')) as { wasmWorkerContents: string }
  const prelude = [
    `import { createRequire } from 'node:module'`,
    `const __filename = ${JSON.stringify(mainScript)}`,
    `const require = createRequire(${JSON.stringify(pathToFileURL(mainScript).href)})`,
  ]
  // the line ends in it stand inside of string literals
  const source = [...prelude, wasmWorkerContents.replaceAll('\n', '\\n')].join('\n')
  return new URL(`data:text/javascript,${encodeURIComponent(source)}`)
}

/** Emscripten adds handlers that make every unhandled error of the process its own. */
function withoutNewHandlers<T>(start: () => T): T {
  const events = ['uncaughtException', 'unhandledRejection'] as const
  const before = events.map((event) => process.listeners(event as 'uncaughtException'))
  const started = start()
  for (const [i, event] of events.entries())
    for (const listener of process.listeners(event as 'uncaughtException'))
      if (!before[i]?.includes(listener)) process.removeListener(event, listener)
  return started
}

/** Throws `out_of_memory` where the back end would go on with a tensor at address 0. */
export function guardMemory(module: Pick<WasmModule, '_malloc' | '_free'>): void {
  module._free(module._malloc(1)) // Emscripten replaces its own function on first use
  const malloc = module._malloc
  module._malloc = (bytes) => {
    const address = malloc(bytes)
    if (address === 0 && bytes > 0)
      throw new HeadraceError('out_of_memory', `no room for ${bytes} bytes in the memory of WebAssembly`)
    return address
  }
}
