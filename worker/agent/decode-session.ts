import { asHeadraceError, HeadraceError } from '../../shared/errors.ts'
import type { DecodeAssignment, LayerRange, Repair, RunWorker, Survey } from '../../shared/protocol/control.ts'
import { encodeMessage } from '../../shared/protocol/messages.ts'
import { type KvHeader, peerDeliverySchema } from '../../shared/protocol/peer.ts'
import { cacheOf } from '../../shared/protocol/tickets.ts'
import type { ComputeRun } from '../compute/compute.ts'
import type { ComputeEvent } from '../compute/messages.ts'
import { errorFromPlain } from '../compute/plain-error.ts'
import { KvServing } from '../decode/kv-serving.ts'
import { ExpectedBlocks } from '../kv/expected-blocks.ts'
import type { Subscription } from '../peers/dialling.ts'
import { Session, type SessionDeps, timesOf } from './session.ts'

/** What a worker makes for the run's cache, and under which name it serves it. */
interface Feed {
  readonly part: string
  readonly by: RunWorker
  readonly layers: LayerRange
  subscription?: Subscription
  /** No more is taken from it. */
  over: boolean
}

/**
 * A decode node's part in a run: fetches every worker's blocks while it computes its own tokens, then reports those of
 * the answer as they are sampled. A worker that fails is none of its own failure: it tells what is missing, and takes
 * that from whoever makes up for it. Until then it is the one that holds what has been computed, so it serves its cache.
 */
export class DecodeSession extends Session {
  readonly #expected: ExpectedBlocks
  readonly #compute: ComputeRun
  readonly #serving: KvServing
  readonly #feeds = new Map<string, Feed>()
  /** Names under which the cache is served. */
  readonly #served: string[] = []
  /** Whom each block came from. */
  readonly #cameFrom = new Map<string, Feed>()
  #tokens = 0

  constructor(assignment: DecodeAssignment, tokens: Int32Array<ArrayBuffer>, deps: SessionDeps) {
    super(assignment, deps)
    const { shape } = deps.compute
    this.#expected = new ExpectedBlocks({
      makers: assignment.workers,
      wireOf: ({ handoffWire }) => handoffWire,
      blockTokens: assignment.blockTokens,
      layers: shape.layers,
      fingerprint: deps.fingerprint,
      heads: shape,
      // Any place may be filled by another one than planned; each feed has its own.
      others: () => true,
    })
    this.#compute = deps.compute.decode(assignment, tokens, (event) => this.attempt(() => this.#onCompute(event)))
    this.#serving = new KvServing({
      worker: deps.worker,
      epoch: assignment.epoch,
      fingerprint: deps.fingerprint,
      compute: this.#compute,
      encode: (header, payload) =>
        encodeMessage(peerDeliverySchema, header, payload, (length) => deps.buffers.take(length)),
      isBlock: (wanted) => this.#expected.has(wanted),
      mostBlocks: this.#expected.remaining,
      clock: deps.clock,
      log: deps.log,
    })
    this.#serve(this.run, (worker) => assignment.workers.some((other) => other.worker === worker))
    for (const by of assignment.workers) {
      this.#feed(this.run, by, { from: 0, to: shape.layers }, this.ticketFor(by.worker))
    }
  }

  override stop(): void {
    this.#compute.stop()
  }

  override repair({ part, by, layers, ticket }: Repair): void {
    this.#serve(cacheOf(part), (worker) => worker === by.worker)
    this.#feed(part, by, layers, ticket)
  }

  override survey({ part, worker }: Survey): void {
    const feed = this.#feeds.get(feedKey(part, worker))
    if (feed === undefined) throw new HeadraceError('unexpected_message', `${worker} makes no ${part} here`)
    feed.over = true
    const missing = this.#expected.missingOf(feed.by.spans, feed.layers)
    const numbers = Int32Array.from(missing.flatMap(({ start, end, layer }) => [start, end, layer]))
    this.deps.report({ kind: 'surveyed', run: this.run, part, worker }, new Uint8Array(numbers.buffer))
  }

  #serve(name: string, mayFetch: (worker: string) => boolean): void {
    this.#served.push(name)
    this.deps.listening.open(name, this.#serving.server(name, mayFetch))
  }

  /** The cache has room for everything, so the window is open from the start. */
  #feed(part: string, by: RunWorker, layers: LayerRange, ticket: string): void {
    const feed: Feed = { part, by, layers, over: false }
    this.#feeds.set(feedKey(part, by.worker), feed)
    const subscribed = this.deps.dialling.subscribe(
      { run: part, source: by.worker, url: by.url, ticket, purpose: 'handoff', window: this.deps.compute.shape.layers },
      {
        block: (header, payload, frame) => this.#receive(feed, header, payload, frame),
        lost: (error) => this.#lost(feed, error),
      },
      this.signal,
    )
    subscribed.then(
      (subscription) => {
        if (this.over) subscription.end()
        else feed.subscription = subscription
      },
      (error: unknown) => this.#lost(feed, asHeadraceError(error)),
    )
  }

  #receive(feed: Feed, header: KvHeader, payload: Uint8Array, frame: Uint8Array): void {
    const { layer, start, count, dtype, crc32 } = header
    const { metrics } = this.deps
    if (feed.over) {
      metrics.blocksRefused.inc({ reason: 'stale_epoch' })
      return
    }
    this.#checkMaker(feed, header)
    if (this.#expected.take(header, payload.byteLength) === undefined) {
      if (this.#cameFrom.get(placeKey(layer, start)) !== feed) return // it came another way
      throw new HeadraceError('kv_identity', `${header.origin} handed over the same block twice`, {
        details: { layer, start },
      })
    }
    metrics.linkBytes.inc({ direction: 'received', peer: feed.by.worker }, frame.byteLength)
    this.trace.received(layer, feed.by.worker)
    this.#cameFrom.set(placeKey(layer, start), feed)
    this.#compute.deliver({ layer, start, count, dtype, crc32, bytes: payload }, () => this.deps.buffers.give(frame))
  }

  #checkMaker({ by }: Feed, { origin, epoch, layer, start }: KvHeader): void {
    if (origin !== by.worker)
      throw new HeadraceError('kv_identity', `${by.worker} handed over a block of ${origin}`, {
        details: { layer, start },
      })
    if (epoch !== by.epoch)
      throw new HeadraceError('stale_epoch', `${origin} handed over a block of a time before it came back`, {
        details: { expected: by.epoch, found: epoch },
      })
  }

  /** Nothing more comes from a worker, or nothing that could be used. */
  #lost(feed: Feed, error: HeadraceError): void {
    if (this.over || feed.over) return
    if (this.#expected.missingOf(feed.by.spans, feed.layers).length === 0) return
    feed.over = true
    const { run } = this
    const { part, by } = feed
    const { code } = error
    this.deps.metrics.handoffFailures.inc({ reason: code })
    this.deps.log.warn(
      { run, part, worker: by.worker, code, details: error.details },
      `hand-off broke off: ${error.message}`,
    )
    const message = error.message.slice(0, 2048)
    this.deps.report({ kind: 'feed_lost', run, part, worker: by.worker, code, message })
  }

  /** What was taken for a block is none: its place is open again, and somebody has to fill it. */
  #damaged({ layer, start, count }: { layer: number; start: number; count: number }): void {
    const { metrics, log, report } = this.deps
    const feed = this.#cameFrom.get(placeKey(layer, start))
    metrics.checksumErrors.inc()
    this.#expected.again(layer, start)
    if (feed === undefined) throw new HeadraceError('internal', 'a block is damaged that never came')
    const { part, by } = feed
    const { run } = this
    const { worker } = by
    metrics.blocksRefused.inc({ reason: 'kv_checksum' })
    log.warn({ run, part, worker, layer, start, count, code: 'kv_checksum' }, 'a KV block came damaged')
    report({ kind: 'block_refused', run, part, worker, layer, start, count, code: 'kv_checksum' })
  }

  /** It is whoever sent this layer of the block that is right or wrong, even if another one was to. */
  #checked(event: Extract<ComputeEvent, { kind: 'checked' }>): void {
    const worker = this.#cameFrom.get(placeKey(event.layer, event.start))?.by.worker
    if (worker === undefined) throw new HeadraceError('internal', 'a block was checked that never came')
    this.deps.report({ ...event, run: this.run, worker })
  }

  #onCompute(event: ComputeEvent): void {
    if (this.over) return
    const { run } = this
    const { report, worker } = this.deps
    if (event.kind === 'assembled') {
      report({ kind: 'kv_assembled', run })
    } else if (event.kind === 'released') {
      report({ kind: 'layer_finished', run, layer: event.layer })
    } else if (event.kind === 'damaged') {
      this.#damaged(event)
    } else if (event.kind === 'checked') {
      this.#checked(event)
    } else if (event.kind === 'logits') {
      const { buffer, byteOffset, byteLength } = event.logits
      report({ kind: 'logits_computed', run }, new Uint8Array(buffer, byteOffset, byteLength))
    } else if (event.kind === 'token') {
      this.#tokens++
      report({ ...event, kind: 'token_sampled', run })
    } else if (event.kind === 'finished') {
      const { reason } = event
      const times = { ...timesOf(event), sendSeconds: 0 }
      const told = { worker, role: 'decode' as const, tokens: this.#tokens, ...times, sent: [] }
      this.finish({ kind: 'finished', run, ...(reason === undefined ? {} : { reason }), report: told }, event.trace)
    } else if (event.kind === 'failed') this.fail(errorFromPlain(event))
  }

  protected clear(): void {
    for (const name of this.#served) this.deps.listening.close(name)
    this.#serving.clear()
    for (const { subscription } of this.#feeds.values()) subscription?.end()
    this.#compute.cancel()
  }
}

const feedKey = (part: string, worker: string): string => `${part} ${worker}`
const placeKey = (layer: number, start: number): string => `${layer} ${start}`
