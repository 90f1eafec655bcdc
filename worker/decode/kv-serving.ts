import type { Clock } from '../../shared/clock.ts'
import { HeadraceError } from '../../shared/errors.ts'
import type { Link } from '../../shared/link/link.ts'
import type { Log } from '../../shared/log.ts'
import type { Wire } from '../../shared/plan.ts'
import type { KvHeader } from '../../shared/protocol/peer.ts'
import type { ComputeRun } from '../compute/compute.ts'
import type { Wanted } from '../kv/expected-blocks.ts'
import { unpackWanted } from '../kv/wanted.ts'
import type { RunRequest, RunServer } from '../peers/listening.ts'
import type { KvBlock } from '../prefill/exchange.ts'
import { Outbox } from '../prefill/outbox.ts'

/**
 * A decode node's cache as a source of KV, for workers whose own source has failed and for those that make up for it.
 * What is not in the cache yet is sent when it comes, within the subscriber's window.
 */
export class KvServing {
  readonly #of: KvServingOptions
  /** By the name under which it is served, and the subscriber's. */
  readonly #subscribers = new Map<string, Subscriber>()

  constructor(of: KvServingOptions) {
    this.#of = of
  }

  /** The cache under the name `run`, for `mayFetch` alone. */
  server(run: string, mayFetch: (worker: string) => boolean): RunServer {
    return {
      handle: (request, from, link, payload) => {
        if (!mayFetch(from)) throw new HeadraceError('kv_identity', `${from} has no part in run ${run}`)
        this.#handle(`${run} ${from}`, request, link, payload)
      },
    }
  }

  clear(): void {
    for (const subscriber of this.#subscribers.values()) subscriber.clear()
    this.#subscribers.clear()
  }

  #handle(key: string, request: RunRequest, link: Link, payload: Uint8Array): void {
    const known = this.#subscribers.get(key)
    if (request.kind === 'credit') known?.grant(request.window)
    else if (request.kind === 'unsubscribe') {
      known?.clear()
      this.#subscribers.delete(key)
    } else {
      if (request.purpose !== 'cached' || request.wire === undefined)
        throw new HeadraceError('unexpected_message', 'a decode node serves nothing but its cache')
      const wanted = unpackWanted(payload, this.#of.mostBlocks)
      for (const one of wanted) if (!this.#of.isBlock(one)) throw new HeadraceError('kv_identity', unknown(one))
      known?.clear()
      const subscriber = new Subscriber(this.#of, request.run, wanted, request.wire)
      this.#subscribers.set(key, subscriber)
      subscriber.attach(link, request.window)
    }
  }
}

export interface KvServingOptions {
  /** Of the decode node, in the headers of what it sends. */
  readonly worker: string
  readonly epoch: number
  readonly fingerprint: string
  readonly compute: Pick<ComputeRun, 'fetch'>
  /** Builds the frame of a block. */
  readonly encode: (header: KvHeader, payload: Uint8Array) => Uint8Array
  /** Whether the run has such a block of another worker. */
  readonly isBlock: (wanted: Wanted) => boolean
  readonly mostBlocks: number
  readonly clock: Clock
  readonly log: Log
}

/**
 * Blocks of one subscriber that are out of the cache, or asked for, and not sent: enough to keep a link busy, 128 MiB at
 * most. A window is the subscriber's word; what waits for it here is this node's memory.
 */
const MOST_WAITING = 16

/** Fetches from the cache what the window allows, lowest layer first, and sends it. */
class Subscriber {
  readonly #of: KvServingOptions
  readonly #run: string
  readonly #wanted: readonly Wanted[]
  readonly #wire: Wire
  readonly #outbox: Outbox
  #window = 0
  /** Of those wanted, how many have been asked for, and sent. */
  #asked = 0
  #sent = 0
  #over = false

  constructor(of: KvServingOptions, run: string, wanted: readonly Wanted[], wire: Wire) {
    this.#of = of
    this.#run = run
    this.#wire = wire
    this.#wanted = wanted.toSorted((a, b) => a.layer - b.layer || a.start - b.start)
    this.#outbox = new Outbox({
      expected: wanted.length,
      clock: of.clock,
      onSent: () => {
        this.#sent++
        this.#fetch()
      },
      onError: (error) => of.log.info({ run, code: error.code }, 'a subscriber of the cache has gone'),
    })
  }

  attach(link: Link, window: number): void {
    this.#outbox.attach(link, window)
    this.#allow(window)
  }

  grant(window: number): void {
    this.#outbox.grant(window)
    this.#allow(window)
  }

  clear(): void {
    this.#over = true
    this.#outbox.clear()
  }

  #allow(window: number): void {
    this.#window = Math.max(this.#window, window)
    this.#fetch()
  }

  #fetch(): void {
    while (!this.#over && this.#asked - this.#sent < MOST_WAITING) {
      const next = this.#wanted[this.#asked]
      if (next === undefined || next.layer >= this.#window) return
      this.#asked++
      this.#of.compute.fetch(next, this.#wire, (block) => this.#send(block))
    }
  }

  #send({ bytes, ...block }: KvBlock): void {
    if (this.#over) return
    const { worker: origin, epoch, fingerprint, encode } = this.#of
    const { layer, start } = block
    const frame = encode({ kind: 'kv', run: this.#run, fingerprint, origin, epoch, ...block }, bytes)
    this.#outbox.push({ layer, start, frame })
  }
}

const unknown = ({ layer, start, count }: Wanted): string =>
  `no block of ${count} tokens at position ${start} of layer ${layer} is made by others`
