import { execFileSync } from 'node:child_process'
import { existsSync } from 'node:fs'
import { HeadraceError } from '../../../shared/errors.ts'
import { bucketArguments, type LinkShape } from './link-shape.ts'
import type { ProxyRoute } from './proxy.ts'

/**
 * Hosts with links of their own on one machine. As root on Linux with iproute2 each is a network namespace on a bridge,
 * and the kernel's token buckets shape what it sends (at its own end) and what it receives (at the bridge's). Delay is
 * the proxies' task everywhere, since kernels are built without `netem`. Elsewhere hosts are addresses of loopback, and
 * proxies shape the rate as well: then what a host receives over connections that it has dialled itself is limited by
 * each sender, not by its own link, so a decode node's hand-off is too fast.
 */
export interface Network {
  readonly kind: 'namespaces' | 'proxies'
  /** Where a host listens. */
  listensAt(host: string): string
  /** Where others reach it: its proxy, if there is one. */
  reachedAt(host: string): string
  /** The command line through which a program starts on it. */
  through(host: string): readonly string[]
  /** What proxies must carry for a port to be reached; none where links need no proxy. */
  routes(host: string, port: number): readonly ProxyRoute[]
  remove(): void
}

/** Names and addresses carry the process id, so that benchmarks do not meet and stale ones can be told. */
const NAMESPACE = 'headrace-bench'
const BRIDGE = /\bhr(\d+)b\b/g

export function createNetwork(hosts: readonly string[], link: LinkShape): Network {
  if (hosts.length > 90)
    throw new HeadraceError('bad_config', `${hosts.length} hosts are more than a network here holds`)
  return namespacesPossible() ? namespaces(hosts, link) : proxied(hosts, link)
}

function namespaces(hosts: readonly string[], link: LinkShape): Network {
  const { pid } = process
  const subnet = `10.${128 + ((pid >> 8) & 127)}.${pid & 255}`
  const bridge = `hr${pid}b`
  const namespace = (host: string): string => `${NAMESPACE}-${pid}-${host}`
  const number = numbersOf(hosts)
  const proxied = link.delaySeconds !== undefined
  const bucket = link.bitsPerSecond === undefined ? undefined : bucketArguments(link.bitsPerSecond)
  const remove = (): void => {
    process.off('exit', remove)
    for (const host of hosts) quietly('ip', 'netns', 'del', namespace(host))
    quietly('ip', 'link', 'del', bridge)
  }
  process.on('exit', remove)
  try {
    run('ip', 'link', 'add', 'name', bridge, 'type', 'bridge')
    run('ip', 'address', 'add', `${subnet}.254/24`, 'dev', bridge)
    run('ip', 'link', 'set', bridge, 'up')
    for (const host of hosts) {
      const own = namespace(host)
      const port = `hr${pid}v${number(host)}`
      run('ip', 'netns', 'add', own)
      run('ip', 'link', 'add', 'name', port, 'type', 'veth', 'peer', 'name', 'eth0', 'netns', own)
      run('ip', 'link', 'set', port, 'master', bridge, 'up')
      run('ip', '-n', own, 'address', 'add', `${subnet}.${number(host)}/24`, 'dev', 'eth0')
      for (const device of ['lo', 'eth0']) run('ip', '-n', own, 'link', 'set', device, 'up')
      if (proxied) run('ip', 'address', 'add', `${subnet}.${number(host) + 100}/24`, 'dev', bridge)
      if (bucket === undefined) continue
      run('tc', '-n', own, 'qdisc', 'add', 'dev', 'eth0', 'root', ...bucket)
      run('tc', 'qdisc', 'add', 'dev', port, 'root', ...bucket)
    }
  } catch (error) {
    remove()
    throw error
  }
  const listensAt = (host: string): string => `${subnet}.${number(host)}`
  const reachedAt = (host: string): string => (proxied ? `${subnet}.${number(host) + 100}` : listensAt(host))
  return {
    kind: 'namespaces',
    listensAt,
    reachedAt,
    through: (host) => ['ip', 'netns', 'exec', namespace(host)],
    routes: (host, port) =>
      proxied
        ? [route(listensAt(host), reachedAt(host), port, { name: link.name, delaySeconds: link.delaySeconds! })]
        : [],
    remove,
  }
}

function proxied(hosts: readonly string[], link: LinkShape): Network {
  const number = numbersOf(hosts)
  const shaped = link.bitsPerSecond !== undefined || link.delaySeconds !== undefined
  const third = process.pid & 255
  const listensAt = (host: string): string => `127.77.${third}.${number(host)}`
  const reachedAt = (host: string): string => (shaped ? `127.78.${third}.${number(host)}` : listensAt(host))
  return {
    kind: 'proxies',
    listensAt,
    reachedAt,
    through: () => [],
    routes: (host, port) => (shaped ? [route(listensAt(host), reachedAt(host), port, link)] : []),
    remove: () => undefined,
  }
}

function numbersOf(hosts: readonly string[]): (host: string) => number {
  const numbers = new Map(hosts.map((host, i) => [host, i + 1]))
  return (host) => {
    const number = numbers.get(host)
    if (number === undefined) throw new HeadraceError('internal', `${host} is no host of this network`)
    return number
  }
}

const route = (target: string, listen: string, port: number, link: LinkShape): ProxyRoute => ({
  listen: { host: listen, port },
  target: { host: target, port },
  delaySeconds: link.delaySeconds ?? 0,
  ...(link.bitsPerSecond !== undefined && { bytesPerSecond: link.bitsPerSecond / 8 }),
})

/** Tried, because what stands in the way has many names: no root, no iproute2, a container's rules, a lean kernel. */
function namespacesPossible(): boolean {
  const trial = `${NAMESPACE}-${process.pid}-trial`
  const possible =
    quietly('ip', 'netns', 'add', trial) &&
    quietly('ip', '-n', trial, 'link', 'add', 'name', 'eth1', 'type', 'veth', 'peer', 'name', 'eth2') &&
    quietly('tc', '-n', trial, 'qdisc', 'add', 'dev', 'eth1', 'root', ...bucketArguments(1e9))
  quietly('ip', 'netns', 'del', trial)
  return possible
}

/** Namespaces and bridges that a killed benchmark has left. */
export function removeStaleNetworks(): void {
  const alive = (pid: string): boolean => existsSync(`/proc/${pid}`)
  for (const [name, pid] of output('ip', 'netns', 'list').matchAll(new RegExp(`^${NAMESPACE}-(\\d+)-[^ \\n]+`, 'gm')))
    if (!alive(pid!)) quietly('ip', 'netns', 'del', name)
  for (const [name, pid] of output('ip', '-o', 'link', 'show', 'type', 'bridge').matchAll(BRIDGE))
    if (!alive(pid!)) quietly('ip', 'link', 'del', name)
}

function run(file: string, ...args: string[]): void {
  try {
    execFileSync(file, args, { stdio: ['ignore', 'ignore', 'pipe'] })
  } catch (cause) {
    throw new HeadraceError('bad_config', `${[file, ...args].join(' ')}: ${String((cause as Error).message)}`, {
      cause,
    })
  }
}

function quietly(file: string, ...args: string[]): boolean {
  try {
    execFileSync(file, args, { stdio: 'ignore' })
    return true
  } catch {
    return false
  }
}

/** Nothing where the program is missing: then it has left nothing either. */
function output(file: string, ...args: string[]): string {
  try {
    return execFileSync(file, args, { encoding: 'utf8', stdio: ['ignore', 'pipe', 'ignore'] })
  } catch {
    return ''
  }
}
