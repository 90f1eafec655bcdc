import { randomInt } from 'node:crypto'
import { availableParallelism, freemem } from 'node:os'
import { aborted } from '../shared/cli/process.ts'
import type { Device, EngineName, Weights } from '../shared/engine-name.ts'
import { abortError } from '../shared/errors.ts'
import { BufferPool } from '../shared/link/buffer-pool.ts'
import { realClock } from '../shared/link/real-clock.ts'
import { wsDialerWith } from '../shared/link/ws-link.ts'
import type { Log } from '../shared/log.ts'
import { FileHashes } from '../shared/model-store/file-hashes.ts'
import { identifyModel } from '../shared/model-store/identity.ts'
import { ModelCache } from '../shared/model-store/model-cache.ts'
import { precisionOf } from '../shared/precision.ts'
import type { Join, Role } from '../shared/protocol/control.ts'
import { Exchange } from '../shared/security/exchange.ts'
import { packageVersion } from '../shared/version.ts'
import { Agent } from './agent/agent.ts'
import { type Compute, startCompute } from './compute/compute.ts'
import { collectGarbage } from './idle.ts'
import { WorkerMetrics } from './metrics.ts'
import { isBf16Checkpoint } from './model-store/checkpoint.ts'
import { fetchModel } from './model-store/fetch-model.ts'
import { PeerDialling } from './peers/dialling.ts'
import { PeerListening } from './peers/listening.ts'
import { WorkerRim } from './rim.ts'
import type { OwnIdentity } from './security/own-identity.ts'
import { TicketBook } from './security/ticket-book.ts'

export interface WorkerConfig {
  readonly coordinatorUrl: string
  /** Folder or file of the model; absent: the coordinator's, fetched into the cache. */
  readonly model: string | undefined
  readonly cache: string
  readonly cacheBudgetBytes: number
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
  /** Absent: a cluster without certificates. */
  readonly identity: OwnIdentity | undefined
}

export const defaultThreads = (): number => availableParallelism()
export const defaultKvBudgetBytes = (): number => Math.floor(freemem() * 0.7)

export interface RunningWorker {
  /** Resolves when the worker has left; rejects if it was refused or cannot compute any more. */
  readonly done: Promise<void>
  leave(graceSeconds: number): Promise<void>
}

/**
 * Puts a worker process together: listen, get and load the model, dial the coordinator. It listens first, because what has
 * come of the model is given to other workers while the rest is on its way.
 */
export async function startWorker(config: WorkerConfig, log: Log, signal: AbortSignal): Promise<RunningWorker> {
  const { engine, role } = config
  const metrics = new WorkerMetrics({ version: packageVersion, role, engine })
  const rim = new WorkerRim(config, metrics, log, config.identity?.membership)
  await rim.listen()
  try {
    return await loadModel(config, await findModel(config, rim, signal), rim, log)
  } catch (error) {
    await rim.close()
    throw error
  }
}

async function loadModel(
  config: WorkerConfig,
  { path, fingerprint }: FoundModel,
  rim: WorkerRim,
  log: Log,
): Promise<RunningWorker> {
  const { engine, threads, weights, device, role, kvBudgetBytes } = config
  const decodes = role === 'decode'
  const settings = { modelFolder: path, engine, threads, weights, device, decodes, kvBudgetBytes }
  const [compute, identity, bf16Checkpoint] = await Promise.allSettled([
    startCompute(settings, (text) => log.warn(text)),
    fingerprint,
    weights === 'bf16' && isBf16Checkpoint(path),
  ])
  if (compute.status === 'rejected') throw compute.reason
  try {
    if (identity.status === 'rejected') throw identity.reason
    if (bf16Checkpoint.status === 'rejected') throw bf16Checkpoint.reason
    const kept = precisionOf({ weights: weights ?? 'f32', bf16Checkpoint: bf16Checkpoint.value })
    const precision = compute.value.f16 ? 'f16' : kept
    return joinCluster(config, compute.value, { fingerprint: identity.value, precision }, rim, log)
  } catch (error) {
    // The thread would keep a process alive that can do nothing.
    await compute.value.close()
    throw error
  }
}

/** `fingerprint`: a model may be loaded while its files are hashed. */
interface FoundModel {
  readonly path: string
  readonly fingerprint: string | Promise<string>
}

/** The worker's own model, or the coordinator's. */
async function findModel(config: WorkerConfig, rim: WorkerRim, signal: AbortSignal): Promise<FoundModel> {
  const { model, coordinatorUrl } = config
  const hashes = new FileHashes(config.cache)
  if (model !== undefined)
    return { path: model, fingerprint: identifyModel(model, hashes, signal).then((local) => rim.giveAway(local)) }
  const { shelf, metrics, log, place } = rim
  const exchange = new Exchange(config.identity?.membership)
  const dialer = wsDialerWith((length) => new Uint8Array(length), config.identity?.membership)
  const cache = new ModelCache(config.cache, config.cacheBudgetBytes)
  const of = {
    coordinatorUrl,
    identity: place,
    cache,
    hashes,
    shelf,
    dialer,
    exchange,
    metrics,
    clock: realClock,
    random,
  }
  try {
    return await fetchModel({ ...of, log }, signal)
  } finally {
    exchange.close()
  }
}

const random = (): number => randomInt(2 ** 32) / 2 ** 32

function joinCluster(
  config: WorkerConfig,
  compute: Compute,
  { fingerprint, precision }: Pick<Join, 'fingerprint' | 'precision'>,
  rim: WorkerRim,
  log: Log,
): RunningWorker {
  const { name } = config
  const { metrics } = rim
  const tickets = new TicketBook(name, realClock)
  const onTicketRefused = (): void => metrics.ticketsRefused.inc()
  const buffers = new BufferPool()
  const listening = new PeerListening({ fingerprint, tickets, clock: realClock, log, buffers, onTicketRefused })
  rim.takeLinks(listening)
  const membership = config.identity?.membership
  const dialer = wsDialerWith((length) => buffers.take(length), membership)
  const dialling = new PeerDialling({ dialer, worker: name, fingerprint, log })
  const agent = new Agent({
    coordinatorUrl: config.coordinatorUrl,
    join: { kind: 'join', ...rim.place, fingerprint, precision },
    dialer,
    membership,
    random,
    clock: realClock,
    log,
    tickets,
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
  const over = new AbortController()
  const refused = keepIdentity(config, () => dialling.renewed(), over.signal)
  const serve = async (): Promise<void> => {
    try {
      await Promise.race([agent.serve(), dead, refused])
    } finally {
      over.abort()
      await agent.leave(0) // who cannot compute must not stay joined
      dialling.close()
      await rim.close()
      await compute.close()
    }
  }
  return { done: serve(), leave: (graceSeconds) => agent.leave(graceSeconds) }
}

/** Never resolves; rejects when the coordinator does not want this worker any more. */
function keepIdentity({ identity }: WorkerConfig, onRenewed: () => void, signal: AbortSignal): Promise<never> {
  return new Promise((_resolve, reject) => {
    identity?.keep(onRenewed, signal).catch(reject)
  })
}
