/**
 * Which link to measure next. Pure: `link-watch.ts` asks for it. Links are measured one at a time in the whole cluster, so
 * that no measurement disturbs another, and never while either end's host computes.
 */
import { linkKey } from '../planning/facts.ts'
import type { LinkName } from './links.ts'
import type { ClusterState, Worker } from './state.ts'

/** Links between hosts change for ever. Inside a host they do not: a few times are enough, since the best of them counts. */
const REFRESH_SECONDS = 120
const SAME_HOST_REFRESH_SECONDS = 30
const SAME_HOST_TIMES = 3
/** A link that could not be measured is tried again after this long. */
const RETRY_SECONDS = 30

/** What is needed first: every run hands its KV to a decode node, only a split one passes it between workers. */
const DECODE = 0
const PREFILL = 1
const REFRESH = 2

interface Due extends LinkName {
  readonly need: number
  /** Among equals, the link that has been left alone the longest. */
  readonly since: number
}

/** The link whose measurement is due first, if any. Without `refresh` only links that were never measured are. */
export function nextLink(state: ClusterState, now: number, refresh: boolean): LinkName | undefined {
  const busy = busyHosts(state)
  const idle = state.workers.filter((worker) => worker.state === 'ready' && !busy.has(worker.host))
  let best: Due | undefined
  for (const to of idle)
    for (const from of idle) {
      if (from === to || from.role !== 'prefill') continue
      const link = due(state, from, to, now)
      if (link === undefined || (link.need === REFRESH && !refresh)) continue
      if (best === undefined || link.need < best.need || (link.need === best.need && link.since < best.since))
        best = link
    }
  return best && { from: best.from, to: best.to }
}

/** Runs keep processors and links busy, and a worker that joins is timing its processor. */
const busyHosts = ({ workers }: ClusterState): ReadonlySet<string> =>
  new Set(workers.filter(({ state, runs }) => state === 'joining' || runs.length > 0).map(({ host }) => host))

function due({ links, asked }: ClusterState, from: Worker, to: Worker, now: number): Due | undefined {
  const key = linkKey(from.id, to.id)
  const askedAt = asked.get(key)?.at ?? Number.NEGATIVE_INFINITY
  if (now - askedAt < RETRY_SECONDS) return undefined
  const name = { from: from.id, to: to.id }
  const link = links.get(key)
  if (link === undefined) return { ...name, need: to.role === 'decode' ? DECODE : PREFILL, since: askedAt }
  const sameHost = from.host === to.host
  if (sameHost && link.recentRtts.length >= SAME_HOST_TIMES) return undefined
  if (now - link.measuredAt < (sameHost ? SAME_HOST_REFRESH_SECONDS : REFRESH_SECONDS)) return undefined
  return { ...name, need: REFRESH, since: link.measuredAt }
}
