import { randomInt } from 'node:crypto'
import { availableParallelism, freemem, hostname, totalmem } from 'node:os'
import { aborted } from '../shared/cli/process.ts'
import type { Device, EngineName, Weights } from '../shared/engine-name.ts'
import { abortError } from '../shared/errors.ts'
import { BufferPool } from '../shared/link/buffer-pool.ts'
import { DATA_LIMITS } from '../shared/link/link.ts'
import { realClock } from '../shared/link/real-clock.ts'
import { wsDialer, wsDialerWith } from '../shared/link/ws-link.ts'
import { type LinkServer, listenLinks } from '../shared/link/ws-server.ts'
import type { Log } from '../shared/log.ts'
import { modelFingerprint } from '../shared/model-folder.ts'
import { PROTOCOL_VERSION, type Role } from '../shared/protocol/control.ts'
import { packageVersion } from '../shared/version.ts'
import { Agent } from './agent/agent.ts'
import { type Compute, startCompute } from './compute/compute.ts'
import { collectGarbage } from './idle.ts'
import { WorkerMetrics } from './metrics.ts'
import { PeerDialling } from './peers/dialling.ts'
import { PeerListening } from './peers/listening.ts'

export interface WorkerConfig {
  readonly coordinatorUrl: string
  readonly modelFolder: string
  readonly role: Role
  readonly name: string
  readonly engine: EngineName
  readonly threads: number
  readonly weights: Weights | undefined
  readonly device: Device
  readonly host: string
  /** 0 takes any free port. */
  readonly port: number
  /** Where other workers reach this one, if not at `host`. */
  readonly advertise: string | undefined
  readonly kvBudgetBytes: number
}

export const defaultThreads = (): number => availableParallelism()
export const defaultKvBudgetBytes = (): number => Math.floor(freemem() * 0.7)

export interface RunningWorker {
  /** Resolves when the worker has left; rejects if it was refused or cannot compute any more. */
  readonly done: Promise<void>
  leave(graceSeconds: number): Promise<void>
}

/** Puts a worker process together: load the model, listen for peers, dial the coordinator. */
export async function startWorker(config: WorkerConfig, log: Log): Promise<RunningWorker> {
  const { modelFolder, engine, threads, weights, device, kvBudgetBytes } = config
  const decodes = config.role === 'decode'
  const [compute, fingerprint] = await Promise.allSettled([
    startCompute({ modelFolder, engine, threads, weights, device, decodes, kvBudgetBytes }, (text) => log.warn(text)),
    modelFingerprint(modelFolder),
  ])
  if (compute.status === 'rejected') throw compute.reason
  try {
    if (fingerprint.status === 'rejected') throw fingerprint.reason
    return await joinCluster(config, compute.value, fingerprint.value, log)
  } catch (error) {
    // The thread would keep a process alive that can do nothing.
    await compute.value.close()
    throw error
  }
}

async function joinCluster(
  config: WorkerConfig,
  compute: Compute,
  fingerprint: string,
  log: Log,
): Promise<RunningWorker> {
  const { engine, threads, name, role } = config
  const metrics = new WorkerMetrics({ version: packageVersion, role, engine })
  const listening = new PeerListening({ fingerprint, clock: realClock, log })
  const server = await listen(config, listening, metrics, log)
  const buffers = new BufferPool()
  const dialer = wsDialerWith((length) => buffers.take(length))
  const dialling = new PeerDialling({ dialer, worker: name, fingerprint, log })
  const at = (host: string): string => `${host.includes(':') ? `[${host}]` : host}:${server.port}`
  const url = `ws://${at(config.advertise ?? config.host)}/link`
  log.info({ url, metrics: `http://${at(config.host)}/metrics`, engine, threads }, 'listening')
  const agent = new Agent({
    coordinatorUrl: config.coordinatorUrl,
    join: {
      kind: 'join',
      protocol: PROTOCOL_VERSION,
      name,
      role,
      fingerprint,
      engine,
      url,
      host: hostname(),
      cores: availableParallelism(),
      threads,
      memoryBytes: totalmem(),
      budgetBytes: config.kvBudgetBytes,
    },
    dialer: wsDialer,
    random: () => randomInt(2 ** 32) / 2 ** 32,
    clock: realClock,
    log,
    session: { worker: name, fingerprint, compute, dialling, listening, metrics, buffers, clock: realClock, log },
    residentBytes: () => process.memoryUsage.rss(),
    collectGarbage: () => {
      buffers.clear()
      collectGarbage()
    },
  })
  const dead = aborted(compute.failed).then(() => {
    throw abortError(compute.failed)
  })
  const serve = async (): Promise<void> => {
    try {
      await Promise.race([agent.serve(), dead])
    } finally {
      await agent.leave(0) // who cannot compute must not stay joined
      dialling.close()
      await server.close()
      await compute.close()
    }
  }
  return { done: serve(), leave: (graceSeconds) => agent.leave(graceSeconds) }
}

/** One port for other workers' links, `/metrics` and `/health`. */
function listen(
  { host, port, role, name }: WorkerConfig,
  listening: PeerListening,
  metrics: WorkerMetrics,
  log: Log,
): Promise<LinkServer> {
  return listenLinks({
    host,
    port,
    path: '/link',
    limits: DATA_LIMITS,
    onLink: (link) => {
      listening.serve(link).catch((error: unknown) => log.error({ err: error }, 'a peer was not served'))
    },
    routes: {
      '/metrics': async () => ({ type: 'text/plain; version=0.0.4; charset=utf-8', body: await metrics.text() }),
      '/health': async () => ({ type: 'application/json', body: JSON.stringify({ status: 'ok', role, name }) }),
    },
  })
}
