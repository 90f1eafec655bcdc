import type { ChildProcess } from 'node:child_process'
import { once } from 'node:events'
import { createWriteStream, readdirSync } from 'node:fs'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { firstLine, startHeadrace } from '../../coordinator/cli/processes.ts'
import { memoryOf } from '../bench/harness/proc.ts'
import { now } from './client.ts'
import type { Role } from './faults.ts'
import { Member } from './member.ts'

export interface ChaosSpec {
  readonly model: string
  readonly workers: number
  readonly decodeNodes: number
  /** Where each process's log goes. */
  readonly logs: string
}

/** What a process holds. */
export interface Held {
  readonly name: string
  readonly pid: number
  readonly residentBytes: number
  readonly descriptors: number
}

interface ClusterAnswer {
  readonly workers: readonly { id: string; state: string; runs: number }[]
  readonly runs: { readonly running: number; readonly waiting: number }
}

const POLL_SECONDS = 0.25
const READY_SECONDS = 90
const RESTART_SECONDS = 1

/** A real cluster on loopback, every part a process of its own, that faults can be done to. */
export class ChaosCluster {
  readonly url: string
  readonly members: readonly Member[]
  /** Processes that ended by themselves. */
  readonly crashes: string[] = []
  /** The coordinator has ended: nothing can be learned any more. */
  readonly failed = new AbortController()
  readonly #coordinator: ChildProcess
  #closing = false

  private constructor(url: string, coordinator: ChildProcess, members: Member[]) {
    this.url = url
    this.#coordinator = coordinator
    this.members = members
    coordinator.once('exit', (code, signal) => {
      this.crashes.push(`coordinator (${signal ?? `status ${code}`})`)
      this.failed.abort(new Error(`the coordinator ended (${signal ?? `status ${code}`})`))
    })
  }

  static async start({ model, workers, decodeNodes, logs }: ChaosSpec, signal: AbortSignal): Promise<ChaosCluster> {
    // Answers are compared token by token: rounding on the way would make them depend on who computed them.
    const args = ['coordinator', '--model', model, '--port', '0', '--wire', 'f32', '--log-level', 'debug']
    const coordinator = startHeadrace(args, { errors: 'pipe' })
    coordinator.stderr!.pipe(createWriteStream(join(logs, 'coordinator.log')))
    const members: Member[] = []
    try {
      const url = await firstLine(coordinator, signal)
      const cluster = new ChaosCluster(url, coordinator, members)
      const at = { host: new URL(url).hostname, port: Number(new URL(url).port) }
      const onCrash = (name: string, how: string): void => cluster.#crashed(name, how)
      const add = async (name: string, role: Role): Promise<void> => {
        members.push(await Member.create({ name, role, model, coordinator: at, logs, onCrash }))
      }
      for (let i = 0; i < workers; i++) await add(`worker-${i + 1}`, 'prefill')
      for (let i = 0; i < decodeNodes; i++) await add(`decode-${i + 1}`, 'decode')
      for (const member of members) member.start()
      await cluster.untilReady(signal)
      return cluster
    } catch (error) {
      coordinator.removeAllListeners('exit').kill('SIGKILL')
      await Promise.all(members.map((member) => member.close()))
      throw error
    }
  }

  /** Starts it again after a while, as whoever keeps services running would. */
  #crashed(name: string, how: string): void {
    this.crashes.push(`${name} (${how})`)
    const again = (): void => this.members.find((member) => member.name === name)?.start()
    setTimeout(() => {
      if (!this.#closing) again()
    }, RESTART_SECONDS * 1000)
  }

  async view(): Promise<ClusterAnswer> {
    const answer = await fetch(`${this.url}/v1/cluster`, { signal: AbortSignal.timeout(10_000) })
    return (await answer.json()) as ClusterAnswer
  }

  /** The names of workers that take runs. */
  async ready(): Promise<ReadonlySet<string>> {
    const { workers } = await this.view()
    return new Set(workers.filter(({ state }) => state === 'ready').map(({ id }) => id))
  }

  untilReady(signal: AbortSignal): Promise<boolean> {
    return this.until(async () => (await this.ready()).size === this.members.length, READY_SECONDS, signal)
  }

  /** No run anywhere: not with the coordinator, not with any worker. */
  untilQuiet(seconds: number, signal: AbortSignal): Promise<boolean> {
    return this.until(
      async () => {
        const { workers, runs } = await this.view()
        if (runs.running + runs.waiting > 0 || workers.some((worker) => worker.runs > 0)) return false
        const texts = await Promise.all(this.members.map((member) => member.metrics()))
        return texts.every((text) => /^headrace_worker_runs_running 0$/m.test(text))
      },
      seconds,
      signal,
    )
  }

  /** Resolves with whether it came true in time. */
  async until(good: () => Promise<boolean>, seconds: number, signal: AbortSignal): Promise<boolean> {
    const deadline = now() + seconds
    while (now() < deadline) {
      signal.throwIfAborted()
      if (await good().catch(() => false)) return true // who is not listening yet is not ready
      await sleep(POLL_SECONDS * 1000, undefined, { signal })
    }
    return false
  }

  held(): Held[] {
    const processes = [{ name: 'coordinator', pid: this.#coordinator.pid }, ...this.members]
    return processes.flatMap(({ name, pid }) => {
      if (pid === undefined) return []
      const descriptors = readdirSync(`/proc/${pid}/fd`).length
      return [{ name, pid, residentBytes: memoryOf(pid).residentBytes, descriptors }]
    })
  }

  async close(): Promise<void> {
    this.#closing = true
    this.#coordinator.removeAllListeners('exit')
    this.#coordinator.kill('SIGTERM')
    await Promise.all([...this.members.map((member) => member.close()), once(this.#coordinator, 'exit')])
  }
}
