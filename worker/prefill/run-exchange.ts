import type { Clock } from '../../shared/clock.ts'
import { HeadraceError } from '../../shared/errors.ts'
import type { BufferPool } from '../../shared/link/buffer-pool.ts'
import type { Link } from '../../shared/link/link.ts'
import type { ModelShape } from '../../shared/model-shape.ts'
import { blocksOf, WIRES, type Wire } from '../../shared/plan.ts'
import type { PrefillAssignment, RunWorker } from '../../shared/protocol/control.ts'
import type { KvHeader, PeerRequest } from '../../shared/protocol/peer.ts'
import { cacheOf } from '../../shared/protocol/tickets.ts'
import { ExpectedBlocks, type Wanted } from '../kv/expected-blocks.ts'
import type { TraceRecorder } from '../trace/recorder.ts'
import type { KvBlock, ReceivedBlock, Use } from './exchange.ts'
import { Outbox, type OutboxOptions } from './outbox.ts'
import { routesOf } from './routes.ts'

/** Layers that may be in flight to a host beyond the one it is working on. Bounds memory at the receiver. */
const WINDOW_LAYERS = 3

/**
 * The moving part of an exchange, on the side of the sockets: which blocks go where and when, for any strategy. What
 * comes from the source is checked, passed on if the strategy says so, and delivered; own blocks go to the target and to
 * the decode node; credits go back to the source as layers are finished here and passed on.
 */
export class RunExchange {
  readonly #of: RunExchangeOptions
  readonly #inbox: ExpectedBlocks
  readonly #outboxes: { readonly prefix: Outbox | undefined; readonly handoff: Outbox }
  #targetWorker: string | undefined
  /** Whom the blocks of others come from. */
  #source: RunWorker | undefined
  /** Blocks of each layer still to be passed on. */
  readonly #unrelayed: number[]
  /** Blocks that come a second time, having been passed on the first time. */
  readonly #passedOn = new Set<string>()
  /** Blocks that came from the decode node. */
  readonly #fromCache = new Set<string>()
  #releasedLayers = 0
  #granted = WINDOW_LAYERS

  constructor(of: RunExchangeOptions) {
    this.#of = of
    const { assignment: a, shape } = of
    const routes = routesOf(a)
    const makers = routes.origins(a)
    // The last layer's KV is needed by nobody but the decode node.
    const sharedLayers = a.layers.to - 1
    this.#inbox = new ExpectedBlocks({
      makers: makers.flatMap((rank) => a.workers[rank] ?? []),
      wireOf: ({ prefixWire }) => prefixWire,
      blockTokens: a.blockTokens,
      layers: sharedLayers,
      fingerprint: of.fingerprint,
      heads: shape,
      // What did not come on its way is the decode node's copy.
      others: (origin) => origin === a.decode,
    })
    const source = routes.source(a)
    this.#source = source === undefined ? undefined : a.workers[source]
    const blocks = (rank: number): number => blocksOf(a.workers[rank]?.spans ?? [], a.blockTokens).length
    const relayed = makers.filter((rank) => routes.relays(a, rank)).reduce((n, rank) => n + blocks(rank), 0)
    this.#unrelayed = Array.from({ length: sharedLayers }, () => relayed)
    const own = blocks(a.rank)
    const target = routes.target(a)
    this.#targetWorker = target === undefined ? undefined : a.workers[target]?.worker
    const prefix =
      this.#targetWorker === undefined
        ? undefined
        : this.#outbox((own + relayed) * sharedLayers, this.#targetWorker, {
            onTaken: () => this.#outboxes.handoff.wake(),
            onError: () => this.abandonTarget(),
          })
    const handedOver = own * (a.layers.to - a.layers.from)
    const handoff = this.#outbox(handedOver, a.decode, { after: prefix, onError: of.onError })
    this.#outboxes = { prefix, handoff }
  }

  /** Whom to subscribe to, and how. */
  get source(): Source | undefined {
    const { assignment: a } = this.#of
    const source = this.#source
    if (source === undefined) return undefined
    const { worker, url } = source
    const of = { worker, window: this.#granted }
    if (worker !== a.decode) return { ...of, run: a.run, url, purpose: 'prefix' }
    // A worker may make up for several others, and for another one while it has a part of its own.
    const run = a.workers[0]?.worker === a.decode ? cacheOf(a.run) : a.run
    const wires = a.workers.map(({ prefixWire }) => WIRES.indexOf(prefixWire))
    const wire = WIRES[Math.min(...wires)]!
    return { ...of, run, url: a.decodeUrl, purpose: 'cached', wanted: this.#inbox.missing(), wire }
  }

  /** From now on the decode node is the source. Returns whether it was not. */
  reroute(): boolean {
    const { decode, decodeUrl } = this.#of.assignment
    if (this.#source === undefined || this.#source.worker === decode) return false
    this.#source = { ...this.#source, worker: decode, url: decodeUrl }
    return true
  }

  /** The next worker is gone: nobody needs what would go there. */
  abandonTarget(): void {
    if (this.#targetWorker === undefined) return
    this.#targetWorker = undefined
    this.#outboxes.prefix?.clear()
    this.#unrelayed.fill(0)
    this.#creditSource()
    this.#outboxes.handoff.wake()
    if (this.drained) this.#of.onDrained()
  }

  /** Whether `worker` is the next one, who gets what this one has. */
  isTarget(worker: string): boolean {
    return worker === this.#targetWorker
  }

  /** All blocks of this worker, and all it had to pass on, have been handed over. */
  get drained(): boolean {
    return this.#outboxes.handoff.drained && this.#prefixDrained
  }

  /** Everything that the source owes has come. */
  get received(): boolean {
    return this.#inbox.remaining === 0
  }

  get sendSeconds(): number {
    return this.#outboxes.handoff.sendSeconds + (this.#outboxes.prefix?.sendSeconds ?? 0)
  }

  get sent(): { to: string; bytes: number }[] {
    const { prefix, handoff } = this.#outboxes
    const sent = [{ to: this.#of.assignment.decode, bytes: handoff.sentBytes }]
    if (prefix && this.#targetWorker) sent.unshift({ to: this.#targetWorker, bytes: prefix.sentBytes })
    return sent
  }

  get #prefixDrained(): boolean {
    return this.#targetWorker === undefined || (this.#outboxes.prefix?.drained ?? true)
  }

  /** A block from the layer loop. One that two need alike becomes one frame. */
  publish({ bytes, ...block }: KvBlock, uses: readonly Use[]): void {
    const { assignment: a, fingerprint, encode } = this.#of
    const boxes = uses.flatMap((use) => this.#boxFor(use) ?? [])
    if (boxes.length === 0) return
    const { worker: origin, epoch } = a.workers[a.rank]!
    const frame = encode({ kind: 'kv', run: a.run, fingerprint, origin, epoch, ...block }, bytes)
    const { layer, start } = block
    const done = this.#afterReaders(boxes.length, frame)
    for (const box of boxes) box.push({ layer, start, frame, done })
  }

  /** The layer loop has finished `layer`. */
  release(layer: number): void {
    this.#releasedLayers = layer + 1
    this.#creditSource()
  }

  /** A frame from the source. Throws a coded error if it is not a block that the plan says comes from there. */
  receive(header: KvHeader, payload: Uint8Array, frame: Uint8Array): void {
    const { assignment: a } = this.#of
    const maker = this.#inbox.take(header, payload.byteLength)
    if (maker === undefined) return // it came another way
    const { layer, start, count, dtype, crc32 } = header
    if (header.origin === a.decode) this.#fromCache.add(placeKey(layer, start))
    const goesOn = this.#targetWorker !== undefined && !this.#passedOn.has(placeKey(layer, start))
    const relays = goesOn && routesOf(a).relays(a, a.workers.indexOf(maker))
    const release = this.#afterReaders(relays ? 2 : 1, frame)
    if (relays) this.#outboxes.prefix?.push({ layer, start, frame, done: () => this.#relayed(layer, release) })
    this.#of.deliver({ layer, start, count, dtype, crc32, bytes: payload }, release)
  }

  /**
   * A block that came was of no use. Whom it was passed on to finds that out too, and helps itself. Returns whether the
   * source of now had sent it.
   */
  again(layer: number, start: number): boolean {
    const place = placeKey(layer, start)
    this.#inbox.again(layer, start)
    this.#passedOn.add(place)
    return this.#fromCache.delete(place) === (this.#source?.worker === this.#of.assignment.decode)
  }

  #relayed(layer: number, release: () => void): void {
    release()
    this.#unrelayed[layer] = Math.max(0, this.#unrelayed[layer]! - 1)
    this.#creditSource()
  }

  #boxFor(use: Use): Outbox | undefined {
    return use === 'prefix' && this.#targetWorker === undefined ? undefined : this.#outboxes[use]
  }

  /** The memory of a frame is free again when it has been called by each of its readers. */
  #afterReaders(readers: number, frame: Uint8Array): () => void {
    let left = readers
    return () => {
      if (--left === 0) this.#of.buffers.give(frame)
    }
  }

  /** A request of the target or the decode node, over the link it dialled. */
  handle(request: Exclude<PeerRequest, { kind: 'hello' | 'probe' }>, from: string, link: Link): void {
    if (request.kind === 'unsubscribe') {
      if (from === this.#targetWorker && !this.#prefixDrained) this.abandonTarget()
      else if (from === this.#of.assignment.decode && !this.#outboxes.handoff.drained)
        this.#of.onError(new HeadraceError('link_closed', `${from} gave the run up`))
      return
    }
    const outbox = this.#outboxFor(from)
    const most = this.#of.shape.layers + WINDOW_LAYERS
    if (request.window > most)
      throw new HeadraceError('unexpected_message', `${from} asks for ${request.window} layers of a window of ${most}`)
    if (request.kind === 'subscribe') outbox.attach(link, request.window)
    else outbox.grant(request.window)
  }

  /** Nothing more is sent. */
  clear(): void {
    this.#outboxes.handoff.clear()
    this.#outboxes.prefix?.clear()
  }

  #outboxFor(worker: string): Outbox {
    if (worker === this.#of.assignment.decode) return this.#outboxes.handoff
    if (worker === this.#targetWorker && this.#outboxes.prefix) return this.#outboxes.prefix
    throw new HeadraceError('kv_identity', `${worker} has no part in run ${this.#of.assignment.run} after this worker`)
  }

  #outbox(expected: number, peer: string, order: Pick<OutboxOptions, 'after' | 'onTaken' | 'onError'>): Outbox {
    const { clock, trace } = this.#of
    return new Outbox({
      expected,
      clock,
      ...order,
      onSent: ({ layer }, started) => {
        trace.record('send', layer, started, clock.now(), peer)
        if (this.drained) this.#of.onDrained()
      },
    })
  }

  /** The source may send up to the window above the first layer that is not both finished here and passed on. */
  #creditSource(): void {
    const unrelayed = this.#unrelayed.findIndex((blocks) => blocks > 0)
    const relayedLayers = unrelayed < 0 ? Number.POSITIVE_INFINITY : unrelayed
    const window = Math.min(this.#releasedLayers, relayedLayers) + WINDOW_LAYERS
    if (window <= this.#granted) return
    this.#granted = window
    this.#of.credit(window)
  }
}

/** Whom a worker fetches the blocks of others from. */
export interface Source {
  readonly worker: string
  readonly url: string
  /** Under which the source knows what it is asked for. */
  readonly run: string
  readonly purpose: 'prefix' | 'cached'
  readonly window: number
  /** Of the decode node's cache: which blocks, and in which precision. */
  readonly wanted?: readonly Wanted[]
  readonly wire?: Wire
}

const placeKey = (layer: number, start: number): string => `${layer} ${start}`

export interface RunExchangeOptions {
  readonly assignment: PrefillAssignment
  readonly shape: ModelShape
  readonly fingerprint: string
  readonly clock: Clock
  readonly trace: TraceRecorder
  /** Where the memory of frames comes from and goes back to. */
  readonly buffers: BufferPool
  /** Builds the frame of a block. */
  readonly encode: (header: KvHeader, payload: Uint8Array) => Uint8Array
  /** Hands a checked block to the layer loop. */
  readonly deliver: (block: ReceivedBlock, onUsed: () => void) => void
  /** Grants the source a larger window. */
  readonly credit: (window: number) => void
  readonly onDrained: () => void
  readonly onError: (error: HeadraceError) => void
}
