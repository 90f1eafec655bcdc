/**
 * How much of the time in which a run had the turn its core was given to sockets: sending, receiving and passing on blocks.
 * Where the threads of a worker have a core more than arithmetic uses, that is nothing; where they have not, whatever
 * moves holds arithmetic up, and the planner has to count it with the bytes.
 */
import { readFileSync } from 'node:fs'

/** CPU seconds since some moment. */
export interface CpuTimes {
  /** Of the thread that asks. */
  readonly thread: number
  /** Of all threads of the process. */
  readonly process: number
}

/** Undefined where the system does not tell. */
export type ReadCpu = () => CpuTimes | undefined

export const readCpu: ReadCpu = () => {
  try {
    const [nanoseconds] = readFileSync('/proc/thread-self/schedstat', 'utf8').split(' ')
    const { user, system } = process.cpuUsage()
    return { thread: Number(nanoseconds) / 1e9, process: (user + system) / 1e6 }
  } catch {
    return undefined // no Linux, or one that keeps no such account
  }
}

export interface Spent {
  /** Between two looks. */
  readonly cpu: CpuTimes
  /** Of arithmetic, the asking thread included. */
  readonly threads: number
  /** In which the run had the turn, and in which it had to wait. */
  readonly computeSeconds: number
  readonly waitSeconds: number
}

/**
 * Seconds of `computeSeconds`. No more than the thread was off its core, whoever had it; and no more than the part that
 * other threads have in the time of the process, because a core may also be given to other programs, or to nobody when a
 * quota is used up.
 */
export function movingSeconds({ cpu, threads, computeSeconds, waitSeconds }: Spent): number {
  const arithmetic = threads * cpu.thread
  // While the run waits, sockets hold nothing up.
  const beside = (Math.max(0, cpu.process - arithmetic) * computeSeconds) / (computeSeconds + waitSeconds)
  const off = computeSeconds - cpu.thread
  const most = (computeSeconds * beside) / (arithmetic + beside)
  return Math.max(0, Math.min(off, most)) || 0
}
