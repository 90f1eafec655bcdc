import { spawn } from 'node:child_process'
import { fileURLToPath } from 'node:url'
import { getJson } from '../../../coordinator/cli/client.ts'
import { until } from '../../../coordinator/cli/local-cluster.ts'
import { firstLine, ProcessGroup, startHeadrace } from '../../../coordinator/cli/processes.ts'
import { environmentForChild } from '../../../shared/env.ts'
import { abortError } from '../../../shared/errors.ts'
import { realClock } from '../../../shared/link/real-clock.ts'
import type { BenchCluster } from './cluster.ts'
import type { LinkShape } from './link-shape.ts'
import type { LinkMeasured } from './net-process.ts'
import { createNetwork, type Network, removeStaleNetworks } from './network.ts'
import type { Place } from './places.ts'
import { parseCores } from './places.ts'
import { coresOf } from './proc.ts'
import type { ProxyRoute } from './proxy.ts'
import { createQuota, type Quota, removeStaleQuotas } from './quota.ts'

/** A real cluster of simulated hosts: workers with a place each, links of a shape, or loopback. */

export interface HostsSpec {
  readonly model: string
  readonly weights: string
  /** Narrowest precision of KV on links; absent leaves it to the coordinator. */
  readonly wire?: string | undefined
  readonly workers: readonly Place[]
  /** Of the decode node, which computes too where it is a host of its own; absent: wherever there is room. */
  readonly decode?: Place | undefined
  /** Absent: all on 127.0.0.1. */
  readonly link?: LinkShape | undefined
  /** The coordinator, and a decode node without a place, run on this core alone; absent: wherever there is room. */
  readonly helperCore?: number | undefined
}

export interface HostsCluster extends BenchCluster {
  readonly network: Network | undefined
  /** From a worker to the decode node, before anything else used the links; absent on loopback. */
  readonly measured: LinkMeasured | undefined
}

/** The cores that this benchmark may use: those that it was started on. */
export const coresAllowed = (): number[] => parseCores(coresOf(process.pid))

const LINK_PORT = 7000
const PROBE_PORT = 7001
const HTTP_PORT = 8080
const LAST_WORDS_SECONDS = 0.5

/** Starts it, does `work`, and removes every trace of it in all cases. */
export async function withHosts<T>(
  spec: HostsSpec,
  signal: AbortSignal,
  work: (cluster: HostsCluster) => Promise<T>,
): Promise<T> {
  removeStaleNetworks()
  removeStaleQuotas()
  const group = new ProcessGroup()
  // Apart, because proxies must outlast the links that they carry.
  const carriers = new ProcessGroup()
  const either = AbortSignal.any([signal, group.failed, carriers.failed])
  const names = spec.workers.map((_, i) => `worker-${i + 1}`)
  const network = spec.link && createNetwork(['coordinator', ...names, 'decode-1'], spec.link)
  const quotas: Quota[] = []
  try {
    const measured = network && (await startNetwork(carriers, network, names, either))
    const url = await startCluster({ group, spec, network, names, quotas }, either)
    return await work({ url, pids: new Map([...group.pids, ...carriers.pids]), signal: either, network, measured })
  } catch (thrown) {
    if (signal.aborted) throw abortError(signal)
    // A link breaks before the end of its process is heard of, and how that ended says more.
    await realClock.sleep(LAST_WORDS_SECONDS)
    if (signal.aborted) throw abortError(signal)
    throw either.aborted ? abortError(either) : thrown
  } finally {
    await group.stop()
    await carriers.stop()
    for (const quota of quotas) quota.remove()
    network?.remove()
  }
}

interface Start {
  readonly group: ProcessGroup
  readonly spec: HostsSpec
  readonly network: Network | undefined
  readonly names: readonly string[]
  readonly quotas: Quota[]
}

async function startCluster({ group, spec, network, names, quotas }: Start, signal: AbortSignal): Promise<string> {
  const { model, weights, wire, workers, decode, helperCore } = spec
  const at = (host: string): string[] =>
    network === undefined ? [] : ['--host', network.listensAt(host), '--accept-plaintext']
  const common = ['--model', model, '--log-level', 'warn']
  const through = (host: string): readonly string[] => network?.through(host) ?? []

  const port = ['--port', network === undefined ? '0' : String(HTTP_PORT)]
  const narrowest = wire === undefined ? [] : ['--wire', wire]
  const args = ['coordinator', ...common, ...port, ...at('coordinator'), ...narrowest]
  args.push('--expect-workers', String(workers.length + 1))
  const coordinator = startHeadrace(args, { core: helperCore, through: through('coordinator') })
  group.add('coordinator', coordinator)
  const url = await firstLine(coordinator, signal)
  const reached = network === undefined ? url : `http://${network.reachedAt('coordinator')}:${HTTP_PORT}`

  const start = (name: string, role: string, place: Place | undefined): void => {
    const own = ['worker', '--coordinator', reached, '--role', role, '--name', name, '--threads', '1']
    const link = network && ['--port', String(LINK_PORT), '--advertise', network.reachedAt(name)]
    const engine = ['--engine', 'onnx', '--weights', weights]
    const child = startHeadrace([...own, ...engine, ...common, ...at(name), ...(link ?? [])], {
      core: place === undefined ? helperCore : place.core,
      through: through(name),
    })
    group.add(name, child)
    if (place === undefined || place.share >= 1) return
    const pid = child.pid ?? 0
    quotas.push(createQuota(`${name}-${pid}`, place.share))
    quotas.at(-1)!.add(pid)
  }
  for (const [i, place] of workers.entries()) start(names[i]!, 'prefill', place)
  start('decode-1', 'decode', decode)
  const ready = async (): Promise<boolean> => {
    const cluster = await getJson<{ workers: { state: string }[] }>(`${url}/v1/cluster`, signal)
    return cluster.workers.filter(({ state }) => state === 'ready').length > workers.length
  }
  await until(ready, signal)
  return url
}

/** Proxies, and what the first worker's link to the decode node carries. */
async function startNetwork(
  carriers: ProcessGroup,
  network: Network,
  names: readonly string[],
  signal: AbortSignal,
): Promise<LinkMeasured> {
  const hosts = [...names, 'decode-1']
  const routes: ProxyRoute[] = [
    ...network.routes('coordinator', HTTP_PORT),
    ...hosts.flatMap((host) => network.routes(host, LINK_PORT)),
    ...network.routes(names[0]!, PROBE_PORT),
  ]
  if (routes.length > 0) {
    const proxy = startHelper([], 'proxy', routes)
    carriers.add('proxy', proxy)
    await firstLine(proxy, signal)
  }
  const source = startHelper(network.through(names[0]!), 'source', {
    host: network.listensAt(names[0]!),
    port: PROBE_PORT,
  })
  try {
    await firstLine(source, signal)
    const sink = startHelper(network.through('decode-1'), 'sink', {
      host: network.reachedAt(names[0]!),
      port: PROBE_PORT,
    })
    return JSON.parse(await firstLine(sink, signal)) as LinkMeasured
  } finally {
    source.kill()
  }
}

/** `net-process.ts` on a host. It ends with this process: the channel tells it. */
function startHelper(through: readonly string[], what: string, argument: object) {
  const program = fileURLToPath(new URL('net-process.js', import.meta.url))
  const [file, ...args] = [...through, process.execPath, program, what, JSON.stringify(argument)]
  return spawn(file!, args, { stdio: ['ignore', 'pipe', 'inherit', 'ipc'], env: environmentForChild({}) })
}
