/** What is known of the links between workers: part of the cluster's state. */
import type { WorkerId } from '../../shared/ids.ts'
import { type LinkFacts, linkKey } from '../planning/facts.ts'

/** KV goes from `from` to `to`; `to` dials. */
export interface LinkName {
  readonly from: WorkerId
  readonly to: WorkerId
}

export interface MeasuredLink extends LinkFacts, LinkName {
  readonly measuredAt: number
  /** Round trips of the latest measurements: `rttSeconds` is the least of them. */
  readonly recentRtts: readonly number[]
}

interface AskedLink extends LinkName {
  readonly at: number
}

/** Both by `linkKey`; of connected workers only, so at most one for each pair of them. */
export interface Links {
  readonly links: ReadonlyMap<string, MeasuredLink>
  /** When its measurement was last asked for, whatever came of it. */
  readonly asked: ReadonlyMap<string, AskedLink>
}

export const NO_LINKS: Links = { links: new Map(), asked: new Map() }

/** The weight of a new rate in the smoothed one. Measurements are minutes apart, so an old one is soon out of date. */
const RATE_GAIN = 0.5
/** Anything on the way only adds to a round trip, so the least of a few is nearest to the truth. */
const RECENT_RTTS = 4

export const linkAsked = ({ links, asked }: Links, { from, to }: LinkName, at: number): Links => ({
  links,
  asked: new Map(asked).set(linkKey(from, to), { from, to, at }),
})

export function linkMeasured(
  { links, asked }: Links,
  { from, to }: LinkName,
  { at, bytesPerSecond, rttSeconds }: LinkFacts & { readonly at: number },
  sameHost: boolean,
): Links {
  const old = links.get(linkKey(from, to))
  // Between hosts a rate goes up and down. Inside a host nothing is shared but processors: who uses them only takes away.
  const settle = sameHost ? Math.max : smoothed
  const recentRtts = [...(old?.recentRtts ?? []), rttSeconds].slice(-RECENT_RTTS)
  const link: MeasuredLink = {
    from,
    to,
    bytesPerSecond: old === undefined ? bytesPerSecond : settle(old.bytesPerSecond, bytesPerSecond),
    rttSeconds: Math.min(...recentRtts),
    recentRtts,
    measuredAt: at,
  }
  return { links: new Map(links).set(linkKey(from, to), link), asked }
}

/** Without those of a worker that is gone. */
export const dropLinks = ({ links, asked }: Links, gone: WorkerId): Links => ({
  links: withoutWorker(links, gone),
  asked: withoutWorker(asked, gone),
})

const withoutWorker = <T extends LinkName>(links: ReadonlyMap<string, T>, gone: WorkerId): ReadonlyMap<string, T> =>
  new Map([...links].filter(([, { from, to }]) => from !== gone && to !== gone))

const smoothed = (old: number, measured: number): number => old + RATE_GAIN * (measured - old)
