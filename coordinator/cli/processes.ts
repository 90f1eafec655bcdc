import { type ChildProcess, spawn } from 'node:child_process'
import { once } from 'node:events'
import { fileURLToPath } from 'node:url'
import { environmentForChild } from '../../shared/env.ts'
import { HeadraceError } from '../../shared/errors.ts'

/** Child processes of this program: they end with it, and it hears when one of them ends. */

/** How long a process may take to leave in good order before it is killed. */
const LEAVE_SECONDS = 12
/** A process that dies again and again has a reason that starting it once more does not cure. */
const MOST_RESTARTS = 5

/** The `headrace` program, which every process of a cluster is started from. */
const PROGRAM = fileURLToPath(new URL('../../deploy/headrace.js', import.meta.url))

/**
 * glibc raises the size from which an allocation is a mapping of its own, up to 32 MiB, whenever such a one is freed; from
 * then on KV blocks come out of a heap that fragments and never shrinks. A fixed size lets each go back to the system
 * (idle workers held 30 to 90 MiB more without). And each of a dozen threads would get a heap of its own, from which the
 * others' memory cannot be had: one for all of them takes 15 to 20 MiB less. Other C libraries ignore the variables.
 */
export const GLIBC = { MALLOC_MMAP_THRESHOLD_: String(128 * 1024), MALLOC_ARENA_MAX: '1' }

export interface StartOptions {
  /** Core to run on alone (Linux, by `taskset`); absent leaves it to the system. */
  readonly core?: number | undefined
  /** A command line that runs it in another place: `ip netns exec NAME`. */
  readonly through?: readonly string[]
  /** Standard error: this program's own, or a pipe to read. */
  readonly errors?: 'inherit' | 'pipe'
}

export function startHeadrace(args: readonly string[], options: StartOptions = {}): ChildProcess {
  const pinned = options.core === undefined ? [] : ['taskset', '-c', String(options.core)]
  const [file, ...rest] = [...(options.through ?? []), ...pinned, process.execPath, PROGRAM, ...args]
  // The channel tells the child when this process is gone, however it went.
  const stdio = ['ignore' as const, 'pipe' as const, options.errors ?? ('inherit' as const), 'ipc' as const]
  return spawn(file!, rest, { stdio, env: environmentForChild(GLIBC) })
}

/** A family of processes that end together. */
export class ProcessGroup {
  readonly #children = new Map<string, ChildProcess>()
  readonly #failure = new AbortController()
  /** Says that a process is started again; absent until `keep` is called. */
  #onRestart: ((what: string) => void) | undefined
  #stopping = false

  /** Aborted, with the reason, when a process has ended that the family cannot do without. */
  get failed(): AbortSignal {
    return this.#failure.signal
  }

  get pids(): ReadonlyMap<string, number> {
    return new Map([...this.#children].map(([name, child]) => [name, child.pid ?? 0]))
  }

  /** A process that all others depend on: when it ends, the family has failed. */
  add(name: string, child: ChildProcess): void {
    this.#watch(name, child, (how) => this.#fail(name, how))
  }

  /** A process that can be started again, once the family is to be kept; before that its end is a failure. */
  addReplaceable(name: string, start: () => ChildProcess, restarts = 0): void {
    this.#watch(name, start(), (how) => {
      if (this.#onRestart === undefined || restarts === MOST_RESTARTS) return this.#fail(name, how)
      this.#onRestart(`${name} ended (${how}); starting it again`)
      this.addReplaceable(name, start, restarts + 1)
    })
  }

  keep(onRestart: (what: string) => void): void {
    this.#onRestart = onRestart
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

  #watch(name: string, child: ChildProcess, onEnd: (how: string) => void): void {
    this.#children.set(name, child)
    const ended = (how: string): void => {
      if (this.#children.get(name) !== child) return
      this.#children.delete(name)
      if (!this.#stopping) onEnd(how)
    }
    child.once('error', (error) => ended(error.message))
    child.once('exit', (code, signal) => ended(signal ?? `status ${code}`))
  }

  #fail(name: string, how: string): void {
    this.#failure.abort(new HeadraceError('worker_lost', `${name} ended (${how})`))
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
