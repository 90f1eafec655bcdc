import type { ChildProcess } from 'node:child_process'
import { once } from 'node:events'
import { createWriteStream, type WriteStream } from 'node:fs'
import { join } from 'node:path'
import { startHeadrace } from '../../coordinator/cli/processes.ts'
import type { Role } from './faults.ts'
import { FaultyProxy } from './proxy.ts'

/** Where workers listen: another loopback address than the one that they say, which is a proxy's. */
const INNER = '127.0.0.2'
const OUTER = '127.0.0.1'

export interface MemberOptions {
  readonly name: string
  readonly role: Role
  readonly model: string
  readonly coordinator: { host: string; port: number }
  readonly logs: string
  /** Ended though nobody killed it. */
  readonly onCrash: (name: string, how: string) => void
}

/** A worker process of the cluster, with a proxy before its port and one on its way to the coordinator. */
export class Member {
  readonly name: string
  readonly role: Role
  readonly peer: FaultyProxy
  readonly control: FaultyProxy
  readonly #of: MemberOptions
  readonly #log: WriteStream
  #child: ChildProcess | undefined
  #leaving = false

  private constructor(of: MemberOptions, peer: FaultyProxy, control: FaultyProxy) {
    this.name = of.name
    this.role = of.role
    this.#of = of
    this.peer = peer
    this.control = control
    this.#log = createWriteStream(join(of.logs, `${of.name}.log`))
  }

  static async create(of: MemberOptions): Promise<Member> {
    let port = 0
    const peer = await FaultyProxy.open(OUTER, () => ({ host: INNER, port }))
    // The same number at the other address, so that the worker need not know that there is a proxy.
    port = peer.port
    const control = await FaultyProxy.open(OUTER, () => of.coordinator)
    return new Member(of, peer, control)
  }

  get pid(): number | undefined {
    return this.#child?.pid
  }

  get running(): boolean {
    return this.#child !== undefined
  }

  start(): void {
    const { name, role, model } = this.#of
    const args = ['worker', '--name', name, '--role', role, '--model', model, '--threads', '1', '--log-level', 'debug']
    args.push('--coordinator', `http://${OUTER}:${this.control.port}`)
    args.push('--host', INNER, '--port', String(this.peer.port), '--advertise', OUTER)
    const child = startHeadrace(args, { errors: 'pipe' })
    this.#child = child
    child.stdout!.pipe(this.#log, { end: false })
    child.stderr!.pipe(this.#log, { end: false })
    child.once('exit', (code, signal) => {
      if (this.#child !== child) return
      this.#child = undefined
      if (!this.#leaving) this.#of.onCrash(name, signal ?? `status ${code}`)
    })
  }

  /** As the machine's own failure would end it: without a word. */
  async kill(): Promise<void> {
    const child = this.#child
    if (child === undefined) return
    this.#child = undefined
    child.kill('SIGKILL')
    await once(child, 'exit')
  }

  freeze(): void {
    this.#child?.kill('SIGSTOP')
  }

  thaw(): void {
    this.#child?.kill('SIGCONT')
  }

  /** What its own `/metrics` says, asked past the proxy. */
  async metrics(): Promise<string> {
    const answer = await fetch(`http://${INNER}:${this.peer.port}/metrics`, { signal: AbortSignal.timeout(5000) })
    return answer.text()
  }

  async close(): Promise<void> {
    this.#leaving = true
    await this.kill()
    await Promise.all([this.peer.close(), this.control.close()])
    this.#log.end()
  }
}
