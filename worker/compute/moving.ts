/**
 * How much of the time in which a run had the turn its core was given to sockets: sending, receiving and passing on blocks.
 * Where a worker has a core more than its arithmetic uses, that is nothing; where it has not, whatever moves holds
 * arithmetic up, and the planner has to count it.
 */
import { readFileSync } from 'node:fs'

/** CPU seconds since some moment. */
export interface CpuTimes {
  /** Of the thread that asks: the one of the arithmetic. */
  readonly arithmetic: number
  /** Of the main thread: sockets. */
  readonly sockets: number
  /** Of all threads. */
  readonly all: number
}

/** Undefined where the system does not tell. */
export type ReadCpu = () => CpuTimes | undefined

export const readCpu: ReadCpu = () => {
  try {
    const { user, system } = process.cpuUsage()
    return {
      arithmetic: secondsOnCore('/proc/thread-self/schedstat'),
      sockets: secondsOnCore('/proc/self/schedstat'), // of the process's first thread alone
      all: (user + system) / 1e6,
    }
  } catch {
    return undefined // no Linux, or one that keeps no such account
  }
}

/** The first number is nanoseconds (proc(5)). */
const secondsOnCore = (path: string): number => Number.parseInt(readFileSync(path, 'utf8'), 10) / 1e9

export const spentBetween = (before: CpuTimes, after: CpuTimes): CpuTimes => ({
  arithmetic: after.arithmetic - before.arithmetic,
  sockets: after.sockets - before.sockets,
  all: after.all - before.all,
})

/** In which a run had the turn, and in which it had to wait. */
interface Times {
  readonly computeSeconds: number
  readonly waitSeconds: number
}

/** Called at the end of a run: what sockets took from its time; nothing if that cannot be told. */
export type MovingWatch = (times: Times) => { movingSeconds?: number }

/**
 * Seconds of `computeSeconds`, given what was spent meanwhile. No more than arithmetic was off its core, whoever had it; and
 * no more than the part that sockets have in the time of the process, because a core may also be given to other programs,
 * or to nobody when a quota is used up.
 */
export function movingSeconds(spent: CpuTimes, { computeSeconds, waitSeconds }: Times): number {
  // While the run waits, sockets hold nothing up.
  const together = computeSeconds / (computeSeconds + waitSeconds)
  const idle = spent.sockets * (1 - together)
  const part = (spent.sockets * together) / (spent.all - idle)
  return Math.max(0, Math.min(computeSeconds - spent.arithmetic, computeSeconds * part)) || 0
}
