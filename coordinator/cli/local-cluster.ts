import { availableParallelism } from 'node:os'
import { abortError, HeadraceError } from '../../shared/errors.ts'
import { realClock } from '../../shared/link/real-clock.ts'
import { firstLine, ProcessGroup, type StartOptions, startHeadrace } from './processes.ts'

/** A cluster on this machine: every coordinator, worker and decode node its own process, on loopback. */
export interface LocalWorkers {
  readonly model: string
  /** Where hashes of the model's files are kept; absent: the user's cache folder. */
  readonly cache?: string | undefined
  readonly workers: number
  readonly decodeNodes: number
  readonly engine: string
  readonly weights: string
  /** Where all of them compute. Default: on the CPU. */
  readonly device?: string
  /** Threads of each prefill worker; absent shares the cores out. */
  readonly threads: number | undefined
  /** Each prefill worker on a core of its own, with one thread. */
  readonly pin: boolean
  readonly logLevel: string
}

const READY_SECONDS = 120
const POLL_SECONDS = 0.05

/** Starts the workers of a coordinator at `url`. */
export function startWorkers(group: ProcessGroup, url: string, of: LocalWorkers): void {
  const cores = availableParallelism()
  if (of.pin && process.platform !== 'linux') throw new HeadraceError('bad_config', '--pin needs Linux (taskset)')
  const shared = of.threads ?? Math.max(1, Math.floor(cores / Math.max(1, of.workers)))
  const start = (name: string, role: string, threads: number, options: StartOptions): void => {
    const args = ['worker', '--coordinator', url, '--model', of.model, '--role', role, '--name', name, ...cacheArgs(of)]
    const engine = ['--engine', of.engine, '--device', of.device ?? 'cpu', '--threads', String(threads)]
    engine.push('--weights', weightsFor(role, of.weights))
    group.addReplaceable(name, () => startHeadrace([...args, ...engine, '--log-level', of.logLevel], options))
  }
  for (let i = 0; i < of.workers; i++)
    start(`worker-${i + 1}`, 'prefill', of.pin ? 1 : shared, of.pin ? { core: i % cores } : {})
  // Decoding has the machine to itself once the prompt is computed; while it is, it only takes blocks in.
  for (let i = 0; i < of.decodeNodes; i++) start(`decode-${i + 1}`, 'decode', of.pin ? 1 : cores, {})
}

/** A step of decoding would widen every layer for a single token; the numbers are the same either way. */
const weightsFor = (role: string, weights: string): string =>
  role === 'decode' && weights === 'bf16' ? 'f32' : weights

const cacheArgs = ({ cache }: LocalWorkers): string[] => (cache === undefined ? [] : ['--cache', cache])

export interface LocalCluster {
  readonly url: string
  readonly group: ProcessGroup
}

/** Starts coordinator and workers and resolves when `/ready` says yes and every worker has joined. */
export async function startLocalCluster(
  of: LocalWorkers & {
    port: number
    strategy: string
    wire?: string
    name?: string | undefined
    coordinatorFlags?: readonly string[]
  },
  signal: AbortSignal,
): Promise<LocalCluster> {
  const group = new ProcessGroup()
  try {
    const args = ['coordinator', '--model', of.model, '--port', String(of.port), '--strategy', of.strategy]
    args.push(...cacheArgs(of), '--expect-workers', String(of.workers + of.decodeNodes))
    // Of what is not bfloat16 already, the decode node has other numbers: see `weightsFor`.
    if (of.weights === 'bf16') args.push('--allow-mixed-precision')
    if (of.wire !== undefined) args.push('--wire', of.wire)
    if (of.name !== undefined) args.push('--name', of.name)
    const coordinator = startHeadrace([...args, ...(of.coordinatorFlags ?? []), '--log-level', of.logLevel])
    group.add('coordinator', coordinator)
    const url = await firstLine(coordinator, signal)
    startWorkers(group, url, of)
    const either = AbortSignal.any([signal, group.failed])
    await until(() => allReady(url, of.workers + of.decodeNodes), either)
    return { url, group }
  } catch (error) {
    await group.stop()
    throw group.failed.aborted ? abortError(group.failed) : error
  }
}

/** Asks again and again, because what is asked lives in another process. */
export async function until(ready: () => boolean | Promise<boolean>, signal: AbortSignal): Promise<void> {
  const deadline = realClock.now() + READY_SECONDS
  while (!(await ready())) {
    if (signal.aborted) throw abortError(signal)
    if (realClock.now() > deadline)
      throw new HeadraceError('no_workers', `the cluster was not ready within ${READY_SECONDS} s`)
    await realClock.sleep(POLL_SECONDS, signal)
  }
}

async function allReady(url: string, workers: number): Promise<boolean> {
  return (await fetch(`${url}/ready?workers=${workers}`)).ok
}
