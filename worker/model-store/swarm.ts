import type { Random } from '../../shared/clock.ts'
import type { PieceSet } from '../../shared/model-store/piece-set.ts'

/** Requests under way to one source: one that is answered while the next is on its way. */
const MOST_AT_PEER = 2
const MOST_AT_COORDINATOR = 4
/** Under way in all: what bounds the memory. */
const MOST_REQUESTS = 8
/** Failures in a row after which a worker is no source any more. */
const MOST_STRIKES = 3
const REST_FIRST_SECONDS = 0.2
const REST_MOST_SECONDS = 5

interface Source {
  readonly url: string
  readonly coordinator: boolean
}

export interface Job {
  readonly piece: number
  readonly source: Source
}

interface Known extends Source {
  /** Absent: all. */
  have: PieceSet | undefined
  readonly lacks: Set<number>
  requests: number
  strikes: number
  restsUntil: number
  dropped: boolean
}

/**
 * Which piece to ask of whom. The coordinator has everything and everybody asks it, so it is asked for what no other worker
 * has; and everybody begins elsewhere, so that newcomers of the same moment soon have different pieces to give each
 * other. Of those that others have, the rarest go first (Cohen, "Incentives Build Robustness in BitTorrent", 2003).
 */
export class Swarm {
  readonly #have: PieceSet
  readonly #random: Random
  readonly #asked = new Set<number>()
  readonly #sources = new Map<string, Known>()

  constructor(have: PieceSet, coordinator: string, random: Random) {
    this.#have = have
    this.#random = random
    this.#sources.set(coordinator, newSource(coordinator, true))
  }

  /** The other workers that have something now, as the coordinator tells. Who has lied is not taken back. */
  setPeers(peers: readonly { url: string; have: PieceSet | undefined }[]): void {
    const told = new Set(peers.map(({ url }) => url))
    for (const [url, { coordinator, dropped, requests }] of this.#sources)
      if (!coordinator && !dropped && requests === 0 && !told.has(url)) this.#sources.delete(url)
    for (const { url, have } of peers) {
      const known = this.#sources.get(url) ?? newSource(url, false)
      known.have = have
      if (!known.coordinator) this.#sources.set(url, known)
    }
  }

  /** The next request to make, or `undefined` while there is none. */
  next(now: number): Job | undefined {
    if (this.#asked.size >= MOST_REQUESTS) return undefined
    const free = this.#usable
      .filter((source) => source.restsUntil <= now && source.requests < mostAt(source))
      .sort((a, b) => Number(a.coordinator) - Number(b.coordinator) || a.requests - b.requests)
    for (const source of free) {
      const piece = this.#rarest(source)
      if (piece === undefined) continue
      source.requests++
      this.#asked.add(piece)
      return { piece, source }
    }
    return undefined
  }

  /** When the first of the sources that rest may be asked again; `undefined` if none rests. */
  restsUntil(now: number): number | undefined {
    const resting = this.#usable.map(({ restsUntil }) => restsUntil).filter((until) => until > now)
    return resting.length === 0 ? undefined : Math.min(...resting)
  }

  /** Whether there is nobody left to ask. */
  get hopeless(): boolean {
    return this.#usable.length === 0
  }

  get #usable(): Known[] {
    return [...this.#sources.values()].filter(({ dropped }) => !dropped)
  }

  done(job: Job): void {
    const source = this.#over(job)
    source.strikes = 0
  }

  /** It does not have the piece that it was thought to have. The coordinator has all of them, so it must be starting anew. */
  missing(job: Job, now: number): void {
    if (job.source.coordinator) this.failed(job, now)
    else this.#over(job).lacks.add(job.piece)
  }

  /** It may do better later; the coordinator, at any time. */
  failed(job: Job, now: number): void {
    const source = this.#over(job)
    source.strikes++
    source.restsUntil = now + Math.min(REST_FIRST_SECONDS * 2 ** (source.strikes - 1), REST_MOST_SECONDS)
    if (source.strikes >= MOST_STRIKES && !source.coordinator) source.dropped = true
  }

  /** It is never asked again. */
  lied(job: Job): void {
    this.#over(job).dropped = true
  }

  #over({ piece, source }: Job): Known {
    const known = this.#sources.get(source.url)!
    known.requests--
    this.#asked.delete(piece)
    return known
  }

  #rarest(source: Known): number | undefined {
    const others = this.#usable.filter((other) => !other.coordinator)
    let best: number[] = []
    let fewest = Number.POSITIVE_INFINITY
    for (let piece = 0; piece < this.#have.length; piece++) {
      if (this.#have.has(piece) || this.#asked.has(piece) || !offers(source, piece)) continue
      let holders = 0
      for (const other of others) if (offers(other, piece)) holders++
      if (holders < fewest) best = []
      if (holders <= fewest) best.push(piece)
      fewest = Math.min(fewest, holders)
    }
    return best[Math.floor(this.#random() * best.length)]
  }
}

const newSource = (url: string, coordinator: boolean): Known => ({
  url,
  coordinator,
  have: undefined,
  lacks: new Set(),
  requests: 0,
  strikes: 0,
  restsUntil: Number.NEGATIVE_INFINITY,
  dropped: false,
})

const mostAt = ({ coordinator }: Source): number => (coordinator ? MOST_AT_COORDINATOR : MOST_AT_PEER)

const offers = ({ have, lacks }: Known, piece: number): boolean =>
  (have === undefined || have.has(piece)) && !lacks.has(piece)
