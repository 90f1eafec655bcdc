import type { Clock } from '../../shared/clock.ts'
import { encodeTrace, MAX_SPANS, SPAN_KINDS, type SpanKind, type TraceSpan } from '../../shared/trace.ts'

/** What is shorter is the turn of the event loop between two pieces of arithmetic, not a gap. */
const SAME_SECONDS = 50e-6
/** Tokens of an answer that are traced one by one: how decoding goes on, the first ones tell. */
const TRACED_TOKENS = 64

/**
 * What one thread of a worker does in a run, as spans. Arithmetic, and each peer in each direction, is a lane of its own:
 * within a lane spans are recorded one after the other and never overlap. Neighbours of the same kind and layer become
 * one span, so that a chunk more costs no memory; when even that is too many, `#coarsen` sums up.
 */
export class TraceRecorder {
  readonly #clock: Clock
  readonly #capacity: number
  readonly #times: Float64Array
  readonly #kinds: Uint8Array
  readonly #layers: Uint16Array
  readonly #lanes: Uint8Array
  readonly #totals = new Float64Array(SPAN_KINDS.length)
  /** Peers by lane; lane 0 is arithmetic and has none. */
  readonly #peers: (string | undefined)[] = [undefined]
  readonly #laneOf = new Map<string, number>()
  /** Place of each lane's last span. */
  readonly #last: number[] = []
  #count = 0
  /** When the last token of the answer came. */
  #answeringSince: number | undefined

  constructor(clock: Clock, capacity = MAX_SPANS) {
    this.#clock = clock
    this.#capacity = capacity
    this.#times = new Float64Array(2 * capacity)
    this.#kinds = new Uint8Array(capacity)
    this.#layers = new Uint16Array(capacity)
    this.#lanes = new Uint8Array(capacity)
  }

  /** Times are on the recorder's clock; within a lane (see above) a span begins no earlier than the one before ended. */
  record(kind: SpanKind, layer: number, start: number, end: number, peer?: string): void {
    const code = SPAN_KINDS.indexOf(kind)
    this.#totals[code]! += end - start
    const lane = this.#lane(kind, peer)
    if (lane === undefined) return
    const last = this.#last[lane] ?? -1
    if (last >= 0 && this.#kinds[last] === code && this.#layers[last] === layer && this.#joins(kind, last, start)) {
      this.#times[2 * last + 1] = end
      return
    }
    if (this.#count === this.#capacity) this.#coarsen()
    if (this.#count === this.#capacity) return // more layers than places: the totals go on
    this.#put({ code, layer, lane, start, end })
  }

  /** Records a piece of work; of an answer's tokens, which repeat all layers each, only the totals. */
  async timed<T>(kind: SpanKind, layer: number, work: () => Promise<T>): Promise<T> {
    const start = this.#clock.now()
    const result = await work()
    const end = this.#clock.now()
    if (this.#answeringSince !== undefined) this.#totals[SPAN_KINDS.indexOf(kind)]! += end - start
    else if (kind !== 'wait' || end - start >= SAME_SECONDS) this.record(kind, layer, start, end)
    return result
  }

  /** A frame of `layer` came from `peer`. */
  received(layer: number, peer: string): void {
    const now = this.#clock.now()
    this.record('receive', layer, now, now, peer)
  }

  /** The answer's token `index` is known. The first one ends the prompt's part. */
  token(index: number): void {
    const now = this.#clock.now()
    const since = this.#answeringSince
    if (since !== undefined && index < TRACED_TOKENS) this.record('decode', index, since, now)
    this.#answeringSince = now
  }

  /** Sum of all that was recorded of a kind, in seconds. */
  seconds(kind: SpanKind): number {
    return this.#totals[SPAN_KINDS.indexOf(kind)]!
  }

  /** Of the seconds in which a run had the turn: attention, and what was no part of a layer's own arithmetic. */
  partsOf(computeSeconds: number): { attendSeconds: number; takeInSeconds: number } {
    const attendSeconds = this.seconds('attend')
    const own = this.seconds('project') + attendSeconds + this.seconds('mix')
    return { attendSeconds, takeInSeconds: Math.max(0, computeSeconds - own) }
  }

  /** In the order of recording, lane by lane. */
  spans(): TraceSpan[] {
    return Array.from({ length: this.#count }, (_, i) => {
      const peer = this.#peers[this.#lanes[i]!]
      return {
        kind: SPAN_KINDS[this.#kinds[i]!]!,
        layer: this.#layers[i]!,
        ...(peer === undefined ? {} : { peer }),
        start: this.#times[2 * i]!,
        end: this.#times[2 * i + 1]!,
      }
    })
  }

  encode(): Uint8Array<ArrayBuffer> {
    return encodeTrace(this.spans())
  }

  /** Frames of a layer are one span however long the pause between them: when its transfer began, and when it was done. */
  #joins(kind: SpanKind, last: number, start: number): boolean {
    return kind === 'send' || kind === 'receive' || start - this.#times[2 * last + 1]! < SAME_SECONDS
  }

  /** `undefined` beyond 255 peers. */
  #lane(kind: SpanKind, peer: string | undefined): number | undefined {
    if (peer === undefined) return 0
    const name = `${kind} ${peer}`
    const known = this.#laneOf.get(name)
    if (known !== undefined || this.#peers.length > 255) return known
    this.#laneOf.set(name, this.#peers.length)
    return this.#peers.push(peer) - 1
  }

  #put({ code, layer, lane, start, end }: Entry): void {
    const at = this.#count++
    this.#kinds[at] = code
    this.#layers[at] = layer
    this.#lanes[at] = lane
    this.#times[2 * at] = start
    this.#times[2 * at + 1] = end
    this.#last[lane] = at
  }

  /**
   * Sums each layer's spans of a kind into one. They are laid one after the other from where each kind first began: how
   * long stays true and nothing overlaps, though the alternation within the layer is lost.
   */
  #coarsen(): void {
    const groups = new Map<string, Entry>()
    for (let i = 0; i < this.#count; i++) {
      const [code, layer, lane] = [this.#kinds[i]!, this.#layers[i]!, this.#lanes[i]!]
      const [start, end] = [this.#times[2 * i]!, this.#times[2 * i + 1]!]
      const key = `${lane} ${layer} ${code}`
      const group = groups.get(key)
      if (group) group.end += end - start
      else groups.set(key, { code, layer, lane, start, end })
    }
    this.#count = 0
    this.#last.length = 0
    const free: number[] = []
    for (const { start, end, ...entry } of groups.values()) {
      const from = Math.max(start, free[entry.lane] ?? start)
      free[entry.lane] = from + end - start
      this.#put({ ...entry, start: from, end: from + end - start })
    }
  }
}

interface Entry {
  readonly code: number
  readonly layer: number
  readonly lane: number
  readonly start: number
  end: number
}
