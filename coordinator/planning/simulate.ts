/**
 * The pipeline of a prefill, layer by layer, in nothing but sums and maxima (max-plus): when each worker has finished
 * each layer, when each link has carried it, and so when the first token is there. Durations in, seconds out.
 *
 * What waits for what is what the workers do: a layer is projected, its blocks go out, own blocks are attended, then those
 * of others as they come, then the rest of the layer. Relays pass blocks on as they arrive. A transfer is a fluid: it ends
 * no earlier than its start and its bytes allow, than each of its two sources and its bytes allow, and than its last block
 * is there and one block's time. A network card serves its transfers in the order of their layers.
 */

export interface Pipeline {
  readonly layers: number
  readonly ring: boolean
  /** Of each worker, in their order. */
  readonly work: readonly Work[]
  /** To each worker from the one before; the head of a chain has none. */
  readonly prefix: readonly Transfer[]
  /** From each worker to the decode node. */
  readonly handoff: readonly Transfer[]
  readonly tail: Tail
  /** How many network cards there are: two for each host, out and in. */
  readonly cards: number
}

/**
 * Seconds of a worker's layer, and of its parts; the last two remain once the first block of others, and once the last
 * one, has come. Lists and not objects, as are transfers: a search makes thousands, and these keep numbers unboxed.
 */
export type Work = readonly [
  layer: number,
  projected: number,
  firstBlock: number,
  afterFirst: number,
  afterLast: number,
]

/**
 * What a link carries in a layer, in seconds of that link: blocks that its sender made, and those that it passes on. Then
 * seconds of the network cards that it leaves and enters through, and their indices; -1: it stays on its host.
 */
export type Transfer = readonly [
  latency: number,
  own: number,
  relayed: number,
  block: number,
  outSeconds: number,
  inSeconds: number,
  outCard: number,
  inCard: number,
]

/** The decode node's own tokens. */
export interface Tail {
  readonly layer: number
  readonly afterFirst: number
  readonly afterLast: number
  /** The last layer, of the prompt's last token only, up to the logits. */
  readonly lastLayer: number
  readonly lastAfterLast: number
}

/** How many times as long links take for bytes, and how many times as far they are. */
interface Slower {
  readonly links: number
  readonly latency: number
}

const AS_IT_IS: Slower = { links: 1, latency: 1 }

export interface Simulated {
  readonly ttftSeconds: number
  /** When each worker's last block is at the decode node. */
  readonly finished: readonly number[]
}

/** Layers that a sender may be ahead of its receiver (`worker/prefill/run-exchange.ts`). */
const CREDIT_LAYERS = 3
const KEPT = CREDIT_LAYERS + 1

/**
 * Where in a worker's row of durations: its layer and its parts, then its two transfers. Not exported: V8 makes constants
 * only of what a module keeps to itself, and the loops below read some twenty of these for each worker and layer.
 */
const LAYER = 0
const PROJECTED = 1
const FIRST_BLOCK = 2
const AFTER_FIRST = 3
const AFTER_LAST = 4
const PREFIX = 5
const HANDOFF = 11
const DURATIONS = 17
/** Where in a transfer. */
const LATENCY = 0
const OWN = 1
const RELAYED = 2
const BLOCK = 3
const OUT = 4
const IN = 5
const OUT_CARD = 6
const IN_CARD = 7
/** Where in a worker's cards: those of its two transfers, out and in. */
const HANDOFF_CARDS = 2
const CARDS = 4

export function simulate(pipeline: Pipeline, slower: Slower = AS_IT_IS): Simulated {
  const { layers, ring, tail } = pipeline
  const workers = pipeline.work.length
  const state = startOf(pipeline, slower)
  const { table, atTail } = state
  let tailDone = 0
  for (let layer = 0; layer < layers - 1; layer++) {
    atTail[FIRST] = workers === 0 ? 0 : Number.POSITIVE_INFINITY
    atTail[LAST] = 0
    if (ring) turnRing(workers, layer, state)
    else passDown(workers, layer, state)
    const attended = later(atTail[FIRST]! + tail.afterFirst, atTail[LAST]! + tail.afterLast)
    tailDone = later(tailDone + tail.layer, attended)
  }
  projectOnly(workers, layers - 1, state)
  const ttftSeconds = later(tailDone + tail.lastLayer, atTail[LAST]! + tail.lastAfterLast)
  const finished: number[] = []
  for (let row = 0; row < workers * ROW; row += ROW)
    finished.push(table[row + HANDED_OFF]! + table[row + HANDOFF + LATENCY]!)
  return { ttftSeconds, finished }
}

/** Unlike `Math.max` and `Math.min` these need not look for NaN and negative zero. */
const later = (a: number, b: number): number => (a > b ? a : b)
const sooner = (a: number, b: number): number => (a < b ? a : b)

interface State {
  /** A row for each worker: its durations, then how far it is. */
  readonly table: Float64Array
  readonly through: Int32Array
  /** When each network card is free. */
  readonly cardFree: Float64Array
  /** When the first block of this layer is at the decode node, and when the last one is: `FIRST` and `LAST`. */
  readonly atTail: Float64Array
}

/** Where in a row, after the durations. When the way to the decode node is free: */
const HANDED_OFF = DURATIONS
/** When a worker's own blocks of this layer have begun and ended to be there, and those that come to it: */
const FIRST_MADE = DURATIONS + 1
const LAST_MADE = DURATIONS + 2
const FIRST_IN = DURATIONS + 3
const LAST_IN = DURATIONS + 4
/** When it has finished a layer, and when its prefix link has carried it, each for the layers that credits go by: */
const DONE = DURATIONS + 5
const CARRIED = DONE + KEPT
const ROW = CARRIED + KEPT

const FIRST = 0
const LAST = 1

/** Nothing has begun. The same memory each time: whoever simulates is done with it when the next one does. */
function startOf(pipeline: Pipeline, slower: Slower): State {
  const { work, prefix, handoff, cards } = pipeline
  const workers = work.length
  if (scratch.table.length < workers * ROW || scratch.cardFree.length < cards)
    scratch = emptyState(Math.max(workers, scratch.table.length / ROW), Math.max(cards, scratch.cardFree.length))
  const { table, cardFree } = scratch
  cardFree.fill(0, 0, cards)
  table.fill(0, 0, workers * ROW)
  for (let i = 0; i < workers; i++) {
    const row = i * ROW
    for (let k = 0; k < PREFIX; k++) table[row + k] = work[i]![k]!
    layTransfer(prefix[i]!, slower, row + PREFIX, i * CARDS)
    layTransfer(handoff[i]!, slower, row + HANDOFF, i * CARDS + HANDOFF_CARDS)
  }
  return scratch
}

function layTransfer(transfer: Transfer, { links, latency }: Slower, link: number, pair: number): void {
  const { table, through } = scratch
  table[link + LATENCY] = transfer[LATENCY] * latency
  table[link + OWN] = transfer[OWN] * links
  table[link + RELAYED] = transfer[RELAYED] * links
  table[link + BLOCK] = transfer[BLOCK] * links
  table[link + OUT] = transfer[OUT] * links
  table[link + IN] = transfer[IN] * links
  through[pair] = transfer[OUT_CARD]
  through[pair + 1] = transfer[IN_CARD]
}

let scratch = emptyState(16, 64)

function emptyState(workers: number, cards: number): State {
  return {
    table: new Float64Array(workers * ROW),
    through: new Int32Array(workers * CARDS),
    cardFree: new Float64Array(cards),
    atTail: new Float64Array(2),
  }
}

/** The last layer is projected, and its blocks go to the decode node only. */
function projectOnly(workers: number, layer: number, state: State): void {
  const { table, atTail } = state
  const before = (layer + KEPT - 1) % KEPT
  atTail[LAST] = 0
  for (let i = 0; i < workers; i++) {
    const row = i * ROW
    const start = table[row + DONE + before]!
    handOff(i, start + table[row + FIRST_BLOCK]!, start + table[row + PROJECTED]!, state)
  }
}

/** One layer of a chain: everything flows one way, so each worker is settled before the next. */
function passDown(workers: number, layer: number, state: State): void {
  const { table } = state
  const now = layer % KEPT
  const before = (layer + KEPT - 1) % KEPT
  const past = (layer + 1) % KEPT
  const credited = layer >= CREDIT_LAYERS
  let firstCome = Number.NEGATIVE_INFINITY
  let lastCome = Number.NEGATIVE_INFINITY
  for (let i = 0; i < workers; i++) {
    const row = i * ROW
    const start = table[row + DONE + before]!
    const first = start + table[row + FIRST_BLOCK]!
    const projected = start + table[row + PROJECTED]!
    const attended = later(firstCome + table[row + AFTER_FIRST]!, lastCome + table[row + AFTER_LAST]!)
    table[row + DONE + now] = later(start + table[row + LAYER]!, attended)
    const to = i + 1
    if (to < workers) {
      const next = row + ROW
      const link = next + PREFIX
      const own = table[link + OWN]!
      const relayed = table[link + RELAYED]!
      const block = table[link + BLOCK]!
      const latency = table[link + LATENCY]!
      let begin = later(table[next + CARRIED + before]!, i === 0 ? first : sooner(first, firstCome))
      if (credited) begin = later(begin, creditOf(next, to + 1 < workers ? next + ROW : NOBODY, past, table))
      const bothEnd = later(later(begin + own + relayed, later(begin, first) + own), projected + block)
      const relayEnd = later(later(begin, firstCome) + relayed, lastCome + block)
      const end = later(later(bothEnd, relayEnd), throughCards(link, to * CARDS, begin, state))
      table[next + CARRIED + now] = end
      firstCome = begin + block + latency
      lastCome = end + latency
    }
    handOff(i, first, projected, state)
  }
}

/** One layer of a ring: all that a worker makes goes round, so each waits for all others. */
function turnRing(workers: number, layer: number, state: State): void {
  const { table } = state
  const now = layer % KEPT
  const before = (layer + KEPT - 1) % KEPT
  const past = (layer + 1) % KEPT
  const credited = layer >= CREDIT_LAYERS
  for (let row = 0; row < workers * ROW; row += ROW) {
    const start = table[row + DONE + before]!
    table[row + FIRST_MADE] = start + table[row + FIRST_BLOCK]!
    table[row + LAST_MADE] = start + table[row + PROJECTED]!
  }
  if (workers > 1) {
    arriveRound(workers, table)
    for (let i = 0; i < workers; i++) {
      const row = i * ROW
      const link = row + PREFIX
      const from = (i > 0 ? i - 1 : workers - 1) * ROW
      let begin = later(table[row + CARRIED + before]!, table[from + FIRST_MADE]!)
      if (credited) begin = later(begin, creditOf(row, i + 1 < workers ? row + ROW : 0, past, table))
      const whole = begin + table[link + OWN]! + table[link + RELAYED]!
      const end = later(later(whole, table[row + LAST_IN]!), throughCards(link, i * CARDS, begin, state))
      table[row + CARRIED + now] = end
      table[row + FIRST_IN] = begin + table[link + BLOCK]! + table[link + LATENCY]!
      table[row + LAST_IN] = end + table[link + LATENCY]!
    }
  }
  for (let i = 0; i < workers; i++) {
    const row = i * ROW
    handOff(i, table[row + FIRST_MADE]!, table[row + LAST_MADE]!, state)
    const own = table[row + DONE + before]! + table[row + LAYER]!
    const first = table[row + FIRST_IN]! + table[row + AFTER_FIRST]!
    const last = table[row + LAST_IN]! + table[row + AFTER_LAST]!
    table[row + DONE + now] = workers > 1 ? later(own, later(first, last)) : own
  }
}

/**
 * When the last block of the last maker could have come to each worker, were every link free for it: projected, and a
 * block's time and the latency of each hop. (The last hop's latency is left out: the caller adds it.) Everyone else is a
 * maker, so the maximum over the others is one over those before and one over those behind on the circle.
 */
function arriveRound(workers: number, table: Float64Array): void {
  let way = 0
  let before = Number.NEGATIVE_INFINITY
  for (let i = 0; i < workers; i++) {
    const row = i * ROW
    if (i > 0) way += hop(row, table)
    table[row + LAST_IN] = before + way
    before = later(before, table[row + LAST_MADE]! - way)
  }
  const round = way + table[PREFIX + LATENCY]! + table[PREFIX + BLOCK]!
  let behind = Number.NEGATIVE_INFINITY
  for (let i = workers - 1; i >= 0; i--) {
    const row = i * ROW
    table[row + LAST_IN] = later(table[row + LAST_IN]!, behind + round + way) - table[row + PREFIX + LATENCY]!
    behind = later(behind, table[row + LAST_MADE]! - way)
    if (i > 0) way -= hop(row, table)
  }
}

const hop = (row: number, table: Float64Array): number => table[row + PREFIX + LATENCY]! + table[row + PREFIX + BLOCK]!

/**
 * A layer is sent when the receiver has finished, and passed on to whoever is `next`, the one that lies the window behind
 * it.
 */
function creditOf(row: number, next: number, past: number, table: Float64Array): number {
  const finished = table[row + DONE + past]!
  const passed = next === NOBODY ? finished : later(finished, table[next + CARRIED + past]!)
  return passed + table[row + PREFIX + LATENCY]!
}

const NOBODY = -1

function handOff(i: number, first: number, projected: number, state: State): void {
  const { table, atTail } = state
  const row = i * ROW
  const way = row + HANDOFF
  const block = table[way + BLOCK]!
  const latency = table[way + LATENCY]!
  const begin = later(table[row + HANDED_OFF]!, first)
  const carried = later(begin + table[way + OWN]!, projected + block)
  const end = later(carried, throughCards(way, i * CARDS + HANDOFF_CARDS, begin, state))
  table[row + HANDED_OFF] = end
  atTail[FIRST] = sooner(atTail[FIRST]!, begin + block + latency)
  atTail[LAST] = later(atTail[LAST]!, end + latency)
}

/** When the cards are done with a transfer: each adds what it has to carry to what it still has to carry. */
function throughCards(link: number, pair: number, begin: number, { table, through, cardFree }: State): number {
  const out = through[pair]!
  if (out < 0) return begin
  const into = through[pair + 1]!
  const sent = later(cardFree[out]!, begin) + table[link + OUT]!
  const received = later(cardFree[into]!, begin) + table[link + IN]!
  cardFree[out] = sent
  cardFree[into] = received
  return later(sent, received)
}
