import type { Clock } from '../../shared/clock.ts'
import type { Log } from '../../shared/log.ts'
import type { Command, MeasuredPeer } from '../../shared/protocol/control.ts'
import type { LinkName } from './links.ts'
import { nextLink } from './next-link.ts'
import { type ClusterEvent, type ClusterState, findWorker } from './state.ts'

/** What the watch needs of the registry. */
interface Rim {
  readonly state: ClusterState
  apply(event: ClusterEvent): void
  send(worker: string, command: Command): void
}

/** Longer than a worker takes for one link, whatever the link is like. */
const ANSWER_SECONDS = 20

/** Keeps the measured links fresh: asks the receiving end of one link at a time, and takes its answers. */
export class LinkWatch {
  readonly #rim: Rim
  readonly #clock: Clock
  readonly #log: Log
  /** The link that is being measured. */
  #current: (LinkName & { readonly since: number }) | undefined

  constructor(rim: Rim, clock: Clock, log: Log) {
    this.#rim = rim
    this.#clock = clock
    this.#log = log
  }

  /** Called with every ping: old links are measured again at this pace, so that refreshing them takes little of an idle net. */
  tick(): void {
    if (this.#current !== undefined && this.#clock.now() - this.#current.since > ANSWER_SECONDS) {
      this.#log.warn({ from: this.#current.from, worker: this.#current.to }, 'no word of a link to be measured')
      this.#current = undefined
    }
    this.#askNext(true)
  }

  /** The worker's answer. Links that were never measured follow each other without a pause. */
  answered(worker: string, links: readonly MeasuredPeer[]): void {
    const link = this.#current
    if (link?.to !== worker) return // too late: it is not waited for any more
    this.#current = undefined
    const measured = links.find(({ from }) => from === link.from)
    if (measured !== undefined) {
      const { rttSeconds, bytesPerSecond } = measured
      this.#rim.apply({ kind: 'link_measured', at: this.#clock.now(), link, rttSeconds, bytesPerSecond })
      this.#log.info({ from: link.from, worker, rttSeconds, bytesPerSecond }, 'link measured')
    }
    this.#askNext(false)
  }

  gone(worker: string): void {
    if (this.#current?.to === worker || this.#current?.from === worker) this.#current = undefined
  }

  #askNext(refresh: boolean): void {
    if (this.#current !== undefined) return
    const now = this.#clock.now()
    const link = nextLink(this.#rim.state, now, refresh)
    const sender = link && findWorker(this.#rim.state, link.from)
    if (link === undefined || sender === undefined) return
    this.#current = { ...link, since: now }
    this.#rim.apply({ kind: 'link_asked', at: now, link })
    this.#rim.send(link.to, { kind: 'measure_links', peers: [{ worker: link.from, url: sender.url }] })
  }
}
