import { getJson } from '../../../coordinator/cli/client.ts'
import { until } from '../../../coordinator/cli/local-cluster.ts'
import { ask, type Prompt } from './ask.ts'
import { type HostsCluster, type HostsSpec, withHosts } from './hosts.ts'

/** Clusters beside each other, and those that keep cores as busy as the measured one's. */

/** Starts a cluster for each, one after the other. The last one's signal is aborted when any of them fails. */
export async function withEach<T>(
  specs: readonly HostsSpec[],
  signal: AbortSignal,
  work: (clusters: readonly HostsCluster[]) => Promise<T>,
): Promise<T> {
  const [first, ...rest] = specs
  if (first === undefined) return await work([])
  return await withHosts(first, signal, (cluster) =>
    withEach(rest, cluster.signal, (others) => work([cluster, ...others])),
  )
}

/** Each of `loads` computes the prompt alone, over and over, from before `work` begins until after it has ended. */
export async function underLoad<T>(
  loads: readonly HostsCluster[],
  prompt: Prompt,
  signal: AbortSignal,
  work: () => Promise<T>,
): Promise<T> {
  const enough = new AbortController()
  const busy = loads.map((load) => keepBusy(load, prompt, AbortSignal.any([signal, enough.signal])))
  try {
    await Promise.all(loads.map((load) => until(async () => (await running(load, signal)) > 0, signal)))
    return await work()
  } finally {
    enough.abort()
    await Promise.all(busy)
    if (!signal.aborted)
      await Promise.all(loads.map((load) => until(async () => (await running(load, signal)) === 0, signal)))
  }
}

async function keepBusy({ url }: HostsCluster, prompt: Prompt, signal: AbortSignal): Promise<void> {
  while (!signal.aborted)
    try {
      await ask(url, prompt, { strategy: 'solo' }, signal)
    } catch (error) {
      // It ends in the middle of a run, and that is the only way in which it should.
      if (!signal.aborted) throw error
    }
}

async function running({ url }: HostsCluster, signal: AbortSignal): Promise<number> {
  return (await getJson<{ runs: { running: number } }>(`${url}/v1/cluster`, signal)).runs.running
}
