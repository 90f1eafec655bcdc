import { setFlagsFromString } from 'node:v8'
import { Worker } from 'node:worker_threads'
import { abortError, HeadraceError } from '../../shared/errors.ts'
import type { ModelShape } from '../../shared/model-shape.ts'
import type { Wire } from '../../shared/plan.ts'
import type { Cost, DecodeAssignment, PrefillAssignment } from '../../shared/protocol/control.ts'
import type { Wanted } from '../kv/expected-blocks.ts'
import type { DeliveredBlock, KvBlock, ReceivedBlock } from '../prefill/exchange.ts'
import type { ComputeCommand, ComputeConfig, ComputeEvent, ComputeReply } from './messages.ts'
import { errorFromPlain } from './plain-error.ts'

/** The arithmetic of a worker as its main thread sees it. A simulation brings its own. */
export interface Compute {
  readonly shape: ModelShape
  /** It computes in float16, on a GPU. */
  readonly f16?: boolean
  /** Fits the worker's cost per layer by timing a few real pieces of work. */
  calibrate(): Promise<Cost>
  prefill(assignment: PrefillAssignment, tokens: Int32Array<ArrayBuffer>, onEvent: OnEvent): ComputeRun
  decode(assignment: DecodeAssignment, tokens: Int32Array<ArrayBuffer>, onEvent: OnEvent): ComputeRun
  /** The listener is told the names of all KV that has outlived its run, whenever that has changed. */
  watchKept(listener: (names: readonly string[]) => void): void
  /** Aborted, with the reason, when no more arithmetic can be done. */
  readonly failed: AbortSignal
  close(): Promise<void>
}

export interface ComputeRun {
  /** Hands a block over. Its bytes must stay as they are until `onUsed`, which a run that ends early may never call. */
  deliver(block: ReceivedBlock, onUsed: () => void): void
  /** A block out of the cache of a decode node, once it is there; `onBlock` is never called if the run ends first. */
  fetch(wanted: Wanted, wire: Wire, onBlock: (block: KvBlock) => void): void
  /** Decoding ends here, in good order: `finished` with reason `stop`. */
  stop(): void
  /** The run ends with a `failed` event unless it has ended already. */
  cancel(): void
}

/** The last event of a run is `finished` or `failed`. */
export type OnEvent = (event: ComputeEvent) => void

/**
 * The heap that a thread may fill before its garbage is collected for the first time. Left to itself, V8 begins with a few
 * MiB and marks them again and again, on threads of its own, because tensors press on it: a tenth of the time of a core
 * that the arithmetic has to share with them (93 collections in a prefill of 12,000 tokens, 4 with this).
 */
const FIRST_HEAP_MIB = 256

/**
 * Of what is young. Buffers of tensors hang on small objects, and V8 looks for those that are garbage once there is twice
 * as much of them as a third of this, whatever the small objects take: left to itself, with 32 MiB.
 */
const YOUNG_HEAP_MIB = 3

/** A call of an engine that takes longer is not waited for when the thread is to end. */
const LAST_CALL_SECONDS = 10

/** Starts the compute thread and resolves when the model is loaded. `notice` is told what is no error but worth a line. */
export async function startCompute(
  config: ComputeConfig,
  notice: (text: string) => void = () => undefined,
): Promise<Compute> {
  setFlagsFromString(`--initial-old-space-size=${FIRST_HEAP_MIB}`)
  const thread = new Worker(new URL('./thread.js', import.meta.url), {
    workerData: config,
    resourceLimits: { maxYoungGenerationSizeMb: YOUNG_HEAP_MIB },
  })
  const compute = new ComputeThread(thread, notice)
  await compute.loaded
  return compute
}

class ComputeThread implements Compute {
  readonly loaded: Promise<void>
  readonly #thread: Worker
  readonly #notice: (text: string) => void
  readonly #ended: Promise<void>
  readonly #runs = new Map<string, RunningRun>()
  readonly #failure = new AbortController()
  #shape: ModelShape | undefined
  #f16 = false
  #onKept: (names: readonly string[]) => void = () => undefined
  #waiting: { resolve: (reply: ComputeReply) => void; reject: (error: HeadraceError) => void } | undefined

  constructor(thread: Worker, notice: (text: string) => void) {
    this.#thread = thread
    this.#notice = notice
    this.loaded = this.#reply().then((reply) => {
      if (reply.kind !== 'loaded') return
      this.#shape = reply.shape
      this.#f16 = reply.f16
    })
    this.#ended = new Promise((resolve) => thread.once('exit', () => resolve()))
    thread.on('message', (reply: ComputeReply) => this.#receive(reply))
    thread.on('error', (error) => this.#fail(new HeadraceError('engine_failed', error.message, { cause: error })))
    thread.on('exit', (code) => this.#fail(new HeadraceError('engine_failed', `the compute thread ended (${code})`)))
  }

  get shape(): ModelShape {
    if (this.#shape === undefined) throw new HeadraceError('internal', 'the model is not loaded yet')
    return this.#shape
  }

  get f16(): boolean {
    return this.#f16
  }

  get failed(): AbortSignal {
    return this.#failure.signal
  }

  async calibrate(): Promise<Cost> {
    const reply = this.#reply()
    this.#post({ kind: 'calibrate' })
    const calibrated = await reply
    if (calibrated.kind !== 'calibrated') throw new HeadraceError('internal', `unexpected ${calibrated.kind}`)
    return calibrated.cost
  }

  prefill(assignment: PrefillAssignment, tokens: Int32Array<ArrayBuffer>, onEvent: OnEvent): ComputeRun {
    const run = this.#open(assignment.run, onEvent)
    this.#post({ kind: 'prefill', assignment, tokens }, [tokens.buffer])
    return run
  }

  decode(assignment: DecodeAssignment, tokens: Int32Array<ArrayBuffer>, onEvent: OnEvent): ComputeRun {
    const run = this.#open(assignment.run, onEvent)
    this.#post({ kind: 'decode', assignment, tokens }, [tokens.buffer])
    return run
  }

  watchKept(listener: (names: readonly string[]) => void): void {
    this.#onKept = listener
  }

  /** The thread ends itself, between two calls of its engine: ended from outside in a call to a GPU, the process would die. */
  async close(): Promise<void> {
    this.#runs.clear()
    this.#post({ kind: 'end' })
    const late = setTimeout(() => this.#thread.terminate(), LAST_CALL_SECONDS * 1000)
    await this.#ended
    clearTimeout(late)
  }

  #open(run: string, onEvent: OnEvent): ComputeRun {
    const running = new RunningRun(onEvent)
    if (this.failed.aborted) queueMicrotask(() => onEvent(failedEvent(abortError(this.failed))))
    else this.#runs.set(run, running)
    return {
      deliver: (block, onUsed) => this.#post({ kind: 'deliver', run, block: running.lend(block, onUsed) }),
      fetch: (wanted, wire, onBlock) => {
        const id = running.await(onBlock)
        this.#post({ kind: 'fetch', run, id, wanted, wire })
      },
      stop: () => this.#post({ kind: 'stop', run }),
      cancel: () => this.#post({ kind: 'cancel', run }),
    }
  }

  #post(command: ComputeCommand, transfer: ArrayBuffer[] = []): void {
    this.#thread.postMessage(command, transfer)
  }

  /** The next message that is not about a run. Only one is waited for at a time. */
  #reply(): Promise<ComputeReply> {
    return new Promise((resolve, reject) => {
      this.#waiting = { resolve, reject }
    })
  }

  #receive(reply: ComputeReply): void {
    if (reply.kind === 'error') {
      this.#fail(errorFromPlain(reply))
      return
    }
    if (reply.kind === 'notice') {
      this.#notice(reply.text)
      return
    }
    if (reply.kind === 'kept') {
      this.#onKept(reply.names)
      return
    }
    if (reply.kind !== 'run') {
      this.#waiting?.resolve(reply)
      this.#waiting = undefined
      return
    }
    const running = this.#runs.get(reply.run)
    if (reply.event.kind === 'finished' || reply.event.kind === 'failed') this.#runs.delete(reply.run)
    running?.handle(reply.event)
  }

  #fail(error: HeadraceError): void {
    if (this.#failure.signal.aborted) return
    this.#failure.abort(error)
    this.#waiting?.reject(error)
    this.#waiting = undefined
    for (const running of this.#runs.values()) running.handle(failedEvent(error))
    this.#runs.clear()
  }
}

/** A run of the compute thread, and the blocks whose bytes it still needs. */
export class RunningRun {
  readonly #onEvent: OnEvent
  readonly #lent = new Map<number, () => void>()
  /** Who waits for blocks out of the cache. */
  readonly #awaited = new Map<number, (block: KvBlock) => void>()
  #delivered = 0
  #asked = 0

  constructor(onEvent: OnEvent) {
    this.#onEvent = onEvent
  }

  lend(block: ReceivedBlock, onUsed: () => void): DeliveredBlock {
    const id = this.#delivered++
    this.#lent.set(id, onUsed)
    return { ...block, id }
  }

  await(onBlock: (block: KvBlock) => void): number {
    const id = this.#asked++
    this.#awaited.set(id, onBlock)
    return id
  }

  handle(event: ComputeEvent): void {
    if (event.kind === 'used') for (const id of event.ids) this.#used(id)
    else if (event.kind === 'fetched') this.#fetched(event.id, event.block)
    else this.#onEvent(event)
  }

  #fetched(id: number, block: KvBlock): void {
    const onBlock = this.#awaited.get(id)
    this.#awaited.delete(id)
    onBlock?.(block)
  }

  #used(id: number): void {
    this.#lent.get(id)?.()
    this.#lent.delete(id)
  }
}

const failedEvent = ({ code, message, details }: HeadraceError): ComputeEvent => ({
  kind: 'failed',
  code,
  message,
  details,
})
