import { type LocalCluster, startLocalCluster } from '../../../coordinator/cli/local-cluster.ts'
import type { Weights } from '../../../shared/engine-name.ts'
import { abortError } from '../../../shared/errors.ts'
import { realClock } from '../../../shared/link/real-clock.ts'
import { bundledModel } from '../../support/paths.ts'
import { coresOf, cpuBetween, machineCpu, type ProcessCpu, threadTimes } from './proc.ts'
import { sum } from './statistics.ts'

/** A real cluster for the length of a suite: every part its own process, each worker on one core. */

export interface BenchCluster {
  readonly url: string
  /** By name, in the order in which they were started. */
  readonly pids: ReadonlyMap<string, number>
  /** Aborted when the user or a dying process ends the suite. */
  readonly signal: AbortSignal
}

const LAST_WORDS_SECONDS = 0.5

/** Starts it, does `work`, and stops it in all cases. */
export async function withCluster<T>(
  of: { workers: number; model?: string; weights?: Weights },
  signal: AbortSignal,
  work: (cluster: BenchCluster) => Promise<T>,
): Promise<T> {
  const { url, group }: LocalCluster = await startLocalCluster(
    {
      model: of.model ?? bundledModel,
      workers: of.workers,
      decodeNodes: 1,
      engine: 'onnx',
      weights: of.weights ?? 'f32',
      threads: 1,
      pin: true,
      logLevel: 'warn',
      port: 0,
      strategy: 'auto',
    },
    signal,
  )
  const pids = new Map(group.pids)
  try {
    return await work({ url, pids, signal: AbortSignal.any([signal, group.failed]) })
  } catch (thrown) {
    // Who ends the suite may have ended its processes in the same breath: that is no failure of theirs.
    if (signal.aborted) throw abortError(signal)
    // Its links break before the end of a process is heard of, and how it ended says more.
    await realClock.sleep(LAST_WORDS_SECONDS)
    if (signal.aborted) throw abortError(signal)
    throw group.failed.aborted ? abortError(group.failed) : thrown
  } finally {
    await group.stop()
  }
}

/** Which process runs where, as the kernel says it. */
export const placementText = ({ pids }: BenchCluster): string =>
  [...pids].map(([name, pid]) => `${name} (process ${pid}) on core ${coresOf(pid)}`).join(', ')

/** What the processors did during one piece of work. */
export interface Load {
  readonly cpu: Readonly<Record<string, ProcessCpu>>
  /** Cores' worth of time that went to programs that are no part of the benchmark, and to other machines of the host. */
  readonly otherCores: number
  readonly stolenCores: number
}

export async function underWatch<T>(cluster: BenchCluster, work: () => Promise<T>): Promise<{ result: T; load: Load }> {
  const threads = (): Map<string, ReturnType<typeof threadTimes>> =>
    new Map([...cluster.pids].map(([name, pid]) => [name, threadTimes(pid)]))
  const before = { at: performance.now(), own: process.cpuUsage(), machine: machineCpu(), threads: threads() }
  const result = await work()
  const after = { at: performance.now(), own: process.cpuUsage(before.own), machine: machineCpu(), threads: threads() }
  const cpu = Object.fromEntries(
    [...cluster.pids].map(([name, pid]) => [
      name,
      cpuBetween(pid, before.threads.get(name) ?? new Map(), after.threads.get(name) ?? new Map()),
    ]),
  )
  const wall = (after.at - before.at) / 1000
  const ours = sum(Object.values(cpu).map(({ all }) => all.seconds)) + (after.own.user + after.own.system) / 1e6
  const busy = after.machine.busySeconds - before.machine.busySeconds
  const stolen = after.machine.stolenSeconds - before.machine.stolenSeconds
  return { result, load: { cpu, otherCores: Math.max(0, busy - ours) / wall, stolenCores: stolen / wall } }
}
