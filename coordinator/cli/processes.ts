import { type ChildProcess, spawn } from 'node:child_process'
import { once } from 'node:events'
import { HeadraceError } from '../../shared/errors.ts'

/** Child processes of this program: they end with it, and it hears when one of them ends. */

/** How long a process may take to leave in good order before it is killed. */
const LEAVE_SECONDS = 12

export interface StartOptions {
  /** Core to run on alone (Linux, by `taskset`); absent leaves it to the system. */
  readonly core?: number | undefined
}

/** Starts this very program with other arguments. */
export function startHeadrace(args: readonly string[], options: StartOptions = {}): ChildProcess {
  const program = [process.execPath, process.argv[1]!, ...args]
  const [file, ...rest] = options.core === undefined ? program : ['taskset', '-c', String(options.core), ...program]
  // The channel tells the child when this process is gone, however it went.
  return spawn(file!, rest, { stdio: ['ignore', 'pipe', 'inherit', 'ipc'] })
}

/** A family of processes that end together. */
export class ProcessGroup {
  readonly #children = new Map<string, ChildProcess>()
  readonly #failure = new AbortController()
  #stopping = false

  /** Aborted, with the reason, when a process ends that should not have. */
  get failed(): AbortSignal {
    return this.#failure.signal
  }

  get pids(): ReadonlyMap<string, number> {
    return new Map([...this.#children].map(([name, child]) => [name, child.pid ?? 0]))
  }

  add(name: string, child: ChildProcess): void {
    this.#children.set(name, child)
    const ended = (how: string): void => {
      this.#children.delete(name)
      if (!this.#stopping) this.#failure.abort(new HeadraceError('worker_lost', `${name} ended (${how})`))
    }
    child.once('error', (error) => ended(error.message))
    child.once('exit', (code, signal) => ended(signal ?? `status ${code}`))
  }

  /** Asks all to leave, kills who does not, and resolves when all are gone. */
  async stop(): Promise<void> {
    this.#stopping = true
    const children = [...this.#children.values()]
    const gone = children.map((child) => once(child, 'exit'))
    for (const child of children) child.kill('SIGTERM')
    const kill = setTimeout(() => {
      for (const child of children) child.kill('SIGKILL')
    }, LEAVE_SECONDS * 1000)
    await Promise.all(gone)
    clearTimeout(kill)
  }
}

/** The first line that a process prints: the coordinator's is its URL. */
export async function firstLine(child: ChildProcess, signal: AbortSignal): Promise<string> {
  let text = ''
  for await (const piece of child.stdout!) {
    signal.throwIfAborted()
    text += String(piece)
    const end = text.indexOf('\n')
    if (end >= 0) return text.slice(0, end)
  }
  throw new HeadraceError('worker_lost', 'a process ended before it was ready')
}
