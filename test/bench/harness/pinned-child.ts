import { type ChildProcess, spawn } from 'node:child_process'
import { once } from 'node:events'
import { abortError, HeadraceError } from '../../../shared/errors.ts'

/** A program of a benchmark that computes on given cores and is asked over the process channel, one thing at a time. */
export class PinnedChild {
  readonly #child: ChildProcess
  readonly #signal: AbortSignal
  #asked = 0
  #errors = ''

  private constructor(child: ChildProcess, signal: AbortSignal) {
    this.#child = child
    this.#signal = signal
    child.stderr?.on('data', (piece: Buffer) => {
      this.#errors = (this.#errors + String(piece)).slice(-MOST_ERRORS)
    })
  }

  /** Starts `program` (JavaScript) on `cores`, as taskset writes them, and resolves when it says that it is ready. */
  static async start(
    program: string,
    cores: string,
    signal: AbortSignal,
    environment: Readonly<Record<string, string>> = {},
  ): Promise<PinnedChild> {
    if (process.platform !== 'linux')
      throw new HeadraceError('bad_config', 'programs are given cores by taskset, which needs Linux')
    const args = ['-c', cores, process.execPath, program]
    const env = { ...process.env, ...environment }
    const child = spawn('taskset', args, { env, stdio: ['ignore', 'ignore', 'pipe', 'ipc'] })
    const started = new PinnedChild(child, signal)
    try {
      await started.#message()
      return started
    } catch (thrown) {
      await started.stop()
      throw thrown
    }
  }

  /** The child's own view of its memory comes with every answer. */
  async ask<T>(operation: string, options: object): Promise<T & { readonly residentBytes: number }> {
    const id = ++this.#asked
    const answer = this.#message()
    this.#child.send({ id, operation, options })
    const { error, code, result, residentBytes } = await answer
    if (error !== undefined) throw new ChildError(error, code)
    return { ...(result as T), residentBytes: residentBytes ?? 0 }
  }

  async stop(): Promise<void> {
    if (this.#child.exitCode !== null || this.#child.signalCode !== null) return
    const gone = once(this.#child, 'exit')
    this.#child.kill('SIGKILL')
    await gone
  }

  async #message(): Promise<Answer> {
    const settled = new AbortController()
    const signal = AbortSignal.any([this.#signal, settled.signal])
    try {
      return await Promise.race([
        once(this.#child, 'message', { signal }).then(([message]) => message as Answer),
        once(this.#child, 'exit', { signal }).then(([code, name]) => {
          throw new HeadraceError(
            'worker_lost',
            `a measured program ended (${name ?? `status ${code}`}): ${this.#errors}`,
          )
        }),
      ])
    } catch (thrown) {
      throw this.#signal.aborted ? abortError(this.#signal) : thrown
    } finally {
      settled.abort()
    }
  }
}

const MOST_ERRORS = 4000

interface Answer {
  readonly result?: unknown
  readonly error?: string
  readonly code?: string
  readonly residentBytes?: number
}

/** What a child answered instead of a result. */
export class ChildError extends Error {
  readonly code: string | undefined

  constructor(message: string, code: string | undefined) {
    super(message)
    this.code = code
  }
}
