/**
 * Rates and latencies between all hosts of a cluster, measured or assumed, as flat tables: a search over thousands of
 * orders reads them. Workers are numbered as the planner orders them, the decode node comes last.
 */
import { type DecodeFacts, type LinkFacts, linkKey, type PrefillFacts } from './facts.ts'

export interface Network {
  /** Bytes per second and one-way seconds from one to another: `[from * size + to]`. */
  readonly rate: Float64Array
  readonly latency: Float64Array
  readonly size: number
  /** The host of each, numbered; what stays on one host passes no network card. */
  readonly host: Int32Array
  /** Bytes per second through the network card of each host, out and in. */
  readonly out: Float64Array
  readonly in: Float64Array
  /** All links and cards have about the same rate and latency: then no order is better than another. */
  readonly alike: boolean
}

/** A link that nobody has measured: loopback, or 1 Gbit/s of wired local network. */
const LOOPBACK: LinkFacts = { bytesPerSecond: 2e9, rttSeconds: 100e-6 }
const WIRED: LinkFacts = { bytesPerSecond: 1.1e8, rttSeconds: 0.5e-3 }

/** Rates and latencies nearer to each other than this count as the same. */
const ALIKE = 1.02

type Host = PrefillFacts | DecodeFacts

export function networkOf(workers: readonly PrefillFacts[], decode: DecodeFacts, links: Links): Network {
  const all: readonly Host[] = [...workers, decode]
  const size = all.length
  const names = [...new Set(all.map(({ host }) => host))]
  const host = Int32Array.from(all, (each) => names.indexOf(each.host))
  const [rate, latency] = [new Float64Array(size * size), new Float64Array(size * size)]
  const measuredOut = new Float64Array(names.length)
  const measuredIn = new Float64Array(names.length)
  all.forEach((from, i) => {
    all.forEach((to, j) => {
      const measured = links.get(linkKey(from.id, to.id))
      const link = measured ?? assumed(from, to)
      rate[i * size + j] = link.bytesPerSecond
      latency[i * size + j] = link.rttSeconds / 2
      if (measured === undefined || from.host === to.host) return
      const [sender, receiver] = [host[i]!, host[j]!]
      measuredOut[sender] = Math.max(measuredOut[sender]!, measured.bytesPerSecond)
      measuredIn[receiver] = Math.max(measuredIn[receiver]!, measured.bytesPerSecond)
    })
  })
  // Nothing measured through a card: it is as fast as any link that is assumed.
  const card = (measured: number) => measured || WIRED.bytesPerSecond
  const network = { rate, latency, size, host, out: measuredOut.map(card), in: measuredIn.map(card) }
  return { ...network, alike: isAlike(network) }
}

type Links = ReadonlyMap<string, LinkFacts>

/** As measured, or assumed. */
export const linkFrom = (from: Host, to: Host, links: Links): LinkFacts =>
  links.get(linkKey(from.id, to.id)) ?? assumed(from, to)

/** The coordinator's round trips to both ends say how far they are from each other at most. */
function assumed(from: Host, to: Host): LinkFacts {
  if (from.host === to.host) return LOOPBACK
  const known = [from.rttSeconds, to.rttSeconds].filter((rtt) => rtt !== undefined)
  return known.length === 0 ? WIRED : { ...WIRED, rttSeconds: Math.max(...known) }
}

/** Every pair that a plan could use. Latencies under the assumed one are all the same: nothing. */
function isAlike({ rate, latency, size }: Pick<Network, 'rate' | 'latency' | 'size'>): boolean {
  const [slowest, fastest] = [Number.POSITIVE_INFINITY, 0]
  const range = { slowest, fastest, nearest: Number.POSITIVE_INFINITY, farthest: 0 }
  for (let from = 0; from < size - 1; from++)
    for (let to = 0; to < size; to++) {
      if (from === to) continue
      const [bytes, seconds] = [rate[from * size + to]!, Math.max(latency[from * size + to]!, WIRED.rttSeconds / 2)]
      range.slowest = Math.min(range.slowest, bytes)
      range.fastest = Math.max(range.fastest, bytes)
      range.nearest = Math.min(range.nearest, seconds)
      range.farthest = Math.max(range.farthest, seconds)
    }
  return range.fastest <= ALIKE * range.slowest && range.farthest <= ALIKE * range.nearest
}

/** Bytes per second from one to another: no link is faster than the cards at its ends. */
export function rateOf({ rate, size, host, out, in: into }: Network, from: number, to: number): number {
  const link = rate[from * size + to]!
  const [sender, receiver] = [host[from]!, host[to]!]
  return sender === receiver ? link : Math.min(link, out[sender]!, into[receiver]!)
}

/** The slower direction of a worker's network card. */
export const cardRate = ({ host, out, in: into }: Network, worker: number): number =>
  Math.min(out[host[worker]!]!, into[host[worker]!]!)
