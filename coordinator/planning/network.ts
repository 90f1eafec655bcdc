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

/** A link of which nothing is known: loopback, or 1 Gbit/s of wired local network. */
const LOOPBACK: LinkFacts = { bytesPerSecond: 2e9, rttSeconds: 100e-6 }
const WIRED: LinkFacts = { bytesPerSecond: 1.1e8, rttSeconds: 0.5e-3 }

/** Rates and latencies nearer to each other than this count as the same. */
const ALIKE = 1.02

type Host = PrefillFacts | DecodeFacts

export function networkOf(workers: readonly PrefillFacts[], decode: DecodeFacts, links: Links, cards: Cards): Network {
  const all: readonly Host[] = [...workers, decode]
  const size = all.length
  const names = [...new Set(all.map(({ host }) => host))]
  const host = Int32Array.from(all, (each) => names.indexOf(each.host))
  const [rate, latency] = [new Float64Array(size * size), new Float64Array(size * size)]
  const [out, into] = [new Float64Array(names.length), new Float64Array(names.length)]
  all.forEach((from, i) => {
    all.forEach((to, j) => {
      const link = linkFrom(from, to, links, cards)
      rate[i * size + j] = link.bytesPerSecond
      latency[i * size + j] = link.rttSeconds / 2
      const [sender, receiver] = [host[i]!, host[j]!]
      if (sender === receiver) return
      out[sender] = Math.max(out[sender]!, link.bytesPerSecond)
      into[receiver] = Math.max(into[receiver]!, link.bytesPerSecond)
    })
  })
  const network = { rate, latency, size, host, out, in: into }
  return { ...network, alike: isAlike(network) }
}

type Links = ReadonlyMap<string, LinkFacts>

/** Of each host, by name: bytes per second of the fastest link that was measured from it, and of that to it. */
export type Cards = ReadonlyMap<string, { readonly out?: number; readonly in?: number }>

export function cardsOf(all: readonly Host[], links: Links): Cards {
  const cards = new Map<string, { out?: number; in?: number }>()
  for (const from of all)
    for (const to of all) {
      const measured = from.host === to.host ? undefined : links.get(linkKey(from.id, to.id))
      if (measured === undefined) continue
      const [sender, receiver] = [cards.get(from.host), cards.get(to.host)]
      const { bytesPerSecond } = measured
      cards.set(from.host, { ...sender, out: Math.max(sender?.out ?? 0, bytesPerSecond) })
      cards.set(to.host, { ...receiver, in: Math.max(receiver?.in ?? 0, bytesPerSecond) })
    }
  return cards
}

/** As measured, or assumed. */
export const linkFrom = (from: Host, to: Host, links: Links, cards: Cards): LinkFacts =>
  links.get(linkKey(from.id, to.id)) ?? assumed(from, to, cards)

/**
 * A link that was not measured is taken to be as fast as the slower of the network cards at its ends, as far as other links
 * have told of them: mostly a card is as fast one way as the other. The coordinator's round trips to both ends say how far
 * they are from each other at most.
 */
function assumed(from: Host, to: Host, cards: Cards): LinkFacts {
  if (from.host === to.host) return LOOPBACK
  const [sender, receiver] = [cards.get(from.host), cards.get(to.host)]
  const rates = [sender?.out ?? sender?.in, receiver?.in ?? receiver?.out].filter((rate) => rate !== undefined)
  const known = [from.rttSeconds, to.rttSeconds].filter((rtt) => rtt !== undefined)
  return {
    bytesPerSecond: rates.length === 0 ? WIRED.bytesPerSecond : Math.min(...rates),
    rttSeconds: known.length === 0 ? WIRED.rttSeconds : Math.max(...known),
  }
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
