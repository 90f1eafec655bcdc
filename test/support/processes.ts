import type { ChildProcess } from 'node:child_process'
import { once } from 'node:events'
import { readFileSync } from 'node:fs'
import { startHeadrace } from '../../coordinator/cli/processes.ts'
import { bundledModel } from './paths.ts'

/** Real processes for tests. Waiting is for what they print or answer, never for time. */

/** A `headrace` process whose standard output is collected, line by line. */
export class Headrace {
  readonly child: ChildProcess
  /** Standard error so far. */
  errors = ''
  readonly #lines: string[] = []
  #changed: () => void = () => undefined
  #exit: { code: number | null; signal: string | null } | undefined

  constructor(...args: string[]) {
    this.child = startHeadrace(args, { errors: 'pipe' })
    this.child.stderr!.on('data', (piece: Buffer) => {
      this.errors += String(piece)
      this.#changed()
    })
    let rest = ''
    this.child.stdout!.on('data', (piece: Buffer) => {
      const lines = (rest + String(piece)).split('\n')
      rest = lines.pop() ?? ''
      this.#lines.push(...lines)
      this.#changed()
    })
    this.child.once('close', (code, signal) => {
      this.#exit = { code, signal }
      this.#changed()
    })
  }

  /** The first line that matches, once it is printed. */
  async line(pattern: RegExp): Promise<string> {
    for (;;) {
      const found = this.#lines.find((line) => pattern.test(line))
      if (found !== undefined) return found
      if (this.#exit !== undefined) throw new Error(`ended without printing ${pattern}: ${this.#lines.join('\n')}`)
      await new Promise<void>((resolve) => {
        this.#changed = resolve
      })
    }
  }

  /** Standard output so far, whole lines. */
  get output(): string {
    return this.#lines.join('\n')
  }

  /** Resolves once standard error matches. */
  async says(pattern: RegExp): Promise<void> {
    while (!pattern.test(this.errors)) {
      if (this.#exit !== undefined) throw new Error(`ended without saying ${pattern}: ${this.errors}`)
      await new Promise<void>((resolve) => {
        this.#changed = resolve
      })
    }
  }

  /** The process ids of the processes that this one has started, by their `--name` (Linux). */
  get children(): Map<string, number> {
    const { pid } = this.child
    const pids = readFileSync(`/proc/${pid}/task/${pid}/children`, 'utf8').trim().split(' ').map(Number)
    const nameOf = (child: number): string => {
      const words = readFileSync(`/proc/${child}/cmdline`, 'utf8').split('\0')
      return words.includes('--name') ? (words[words.indexOf('--name') + 1] ?? '') : (words[2] ?? '')
    }
    return new Map(pids.map((child) => [nameOf(child), child]))
  }

  async exited(): Promise<{ code: number | null; signal: string | null }> {
    if (this.#exit === undefined) await once(this.child, 'close')
    return this.#exit!
  }

  async stop(): Promise<{ code: number | null; signal: string | null }> {
    this.child.kill('SIGTERM')
    return this.exited()
  }
}

/** Asks `url` again and again until `good` likes the answer. The runner's time limit ends a test that waits in vain. */
export async function askUntil<T>(url: string, good: (body: T) => boolean): Promise<T> {
  for (;;) {
    const answer = await fetch(url).catch(() => undefined) // not listening yet
    const body = answer && ((await answer.json()) as T)
    if (body !== undefined && good(body)) return body
    await new Promise((resolve) => setImmediate(resolve))
  }
}

export interface ClusterAnswer {
  readonly workers: { id: string; role: string; state: string; runs: number }[]
  readonly runs: { running: number; waiting: number }
}

/** `headrace up` with the bundled model: its URL, once it is ready. */
export async function startUp(...args: string[]): Promise<{ up: Headrace; url: string }> {
  const up = new Headrace('up', '--model', bundledModel, '--port', '0', '--log-level', 'silent', ...args)
  return { up, url: await up.line(/^http:/) }
}
