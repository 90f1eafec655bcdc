/**
 * The pipeline of a prefill, layer by layer, in nothing but sums and maxima (max-plus): when each worker has finished
 * each layer, when each link has carried it, and so when the first token is there. Durations in, seconds out.
 *
 * What waits for what is what the workers do: a layer is projected, its blocks go out, own blocks are attended, then those
 * of others as they come, then the rest of the layer. Relays pass blocks on as they arrive. A transfer is a fluid: it ends
 * no earlier than its start and its bytes allow, than each of its two sources and its bytes allow, and than its last block
 * is there and one block's time. A network card serves its transfers in the order of their layers.
 */

/** One kind of number of each worker, in their order. Plain arrays: a search makes thousands, and typed ones cost more. */
type Each = number[]

export interface Pipeline {
  readonly layers: number
  readonly ring: boolean
  readonly work: Work
  /** To each worker from the one before; the head of a chain has none. */
  readonly prefix: Transfers
  /** From each worker to the decode node. */
  readonly handoff: Transfers
  readonly tail: Tail
  /** How many network cards there are: two for each host, out and in. */
  readonly cards: number
}

/** Seconds of each worker's layer, and of its parts. */
export interface Work {
  readonly layer: Each
  readonly projected: Each
  readonly firstBlock: Each
  /** What remains once the first block of others, and once the last one, has come. */
  readonly afterFirst: Each
  readonly afterLast: Each
}

/** What each link carries in a layer, in seconds of that link. */
export interface Transfers {
  readonly latency: Each
  /** Blocks that its sender made, and those that it passes on. */
  readonly own: Each
  readonly relayed: Each
  readonly block: Each
  /** Index and seconds of the network cards that it leaves and enters through; -1: it stays on its host. */
  readonly out: Each
  readonly outSeconds: Each
  readonly in: Each
  readonly inSeconds: Each
}

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
  readonly finished: Each
}

/** Layers that a sender may be ahead of its receiver (`worker/prefill/run-exchange.ts`). */
const CREDIT_LAYERS = 3
const KEPT = CREDIT_LAYERS + 1

export function simulate(pipeline: Pipeline, slower: Slower = AS_IT_IS): Simulated {
  const { layers, ring, tail, handoff } = pipeline
  const workers = handoff.own.length
  const state = startOf(workers, pipeline.cards)
  lay(pipeline, slower, state)
  const { atTail, handedOff } = state
  let tailDone = 0
  for (let layer = 0; layer < layers - 1; layer++) {
    atTail[FIRST] = workers === 0 ? 0 : Number.POSITIVE_INFINITY
    atTail[LAST] = 0
    grant(workers, ring, layer, state)
    if (ring) turnRing(workers, state)
    else passDown(workers, state)
    remember(layer, workers, state)
    const attended = later(atTail[FIRST]! + tail.afterFirst, atTail[LAST]! + tail.afterLast)
    tailDone = later(tailDone + tail.layer, attended)
  }
  projectOnly(workers, state)
  const ttftSeconds = later(tailDone + tail.lastLayer, atTail[LAST]! + tail.lastAfterLast)
  return { ttftSeconds, finished: handoff.latency.map((seconds, i) => handedOff[i]! + seconds * slower.latency) }
}

/** Unlike `Math.max` and `Math.min` these need not look for NaN and negative zero. */
const later = (a: number, b: number): number => (a > b ? a : b)
const sooner = (a: number, b: number): number => (a < b ? a : b)

/** Where in a worker's row of a table that is all durations: its layer and its parts, then its two transfers. */
const LAYER = 0
const PROJECTED = 1
const FIRST_BLOCK = 2
const AFTER_FIRST = 3
const AFTER_LAST = 4
const PREFIX = 5
const HANDOFF = 11
const ROW = 17
/** Where in a transfer. */
const LATENCY = 0
const OWN = 1
const RELAYED = 2
const BLOCK = 3
const OUT = 4
const IN = 5
/** Where in a worker's cards. */
const HANDOFF_CARDS = 2
const CARDS = 4

/** One table instead of twenty lists: each number is read once for every layer. */
function lay({ work, prefix, handoff }: Pipeline, slower: Slower, { seconds, cards }: State): void {
  for (let i = 0; i < work.layer.length; i++) {
    const row = i * ROW
    seconds[row + LAYER] = work.layer[i]!
    seconds[row + PROJECTED] = work.projected[i]!
    seconds[row + FIRST_BLOCK] = work.firstBlock[i]!
    seconds[row + AFTER_FIRST] = work.afterFirst[i]!
    seconds[row + AFTER_LAST] = work.afterLast[i]!
    layTransfer(prefix, i, slower, row + PREFIX, seconds)
    layTransfer(handoff, i, slower, row + HANDOFF, seconds)
    const pair = i * CARDS
    cards[pair] = prefix.out[i]!
    cards[pair + 1] = prefix.in[i]!
    cards[pair + HANDOFF_CARDS] = handoff.out[i]!
    cards[pair + HANDOFF_CARDS + 1] = handoff.in[i]!
  }
}

function layTransfer(t: Transfers, i: number, slower: Slower, link: number, seconds: Float64Array): void {
  const { links, latency } = slower
  seconds[link + LATENCY] = t.latency[i]! * latency
  seconds[link + OWN] = t.own[i]! * links
  seconds[link + RELAYED] = t.relayed[i]! * links
  seconds[link + BLOCK] = t.block[i]! * links
  seconds[link + OUT] = t.outSeconds[i]! * links
  seconds[link + IN] = t.inSeconds[i]! * links
}

interface State {
  /** What the pipeline lasts, and its cards; see `lay`. */
  readonly seconds: Float64Array
  readonly cards: Int32Array
  /** When each worker has finished its layer, and its own blocks of this one have begun and ended to be there. */
  readonly done: Float64Array
  readonly first: Float64Array
  readonly projected: Float64Array
  /** When each worker's prefix link is free, and the way to the decode node. */
  readonly carried: Float64Array
  readonly handedOff: Float64Array
  /** `done` and `carried` of the layers before, which credits go by: `[layer % KEPT][worker]`. */
  readonly pastDone: Float64Array
  readonly pastCarried: Float64Array
  readonly cardFree: Float64Array
  /** When what comes to each worker in this layer begins and ends to be there. */
  readonly firstIn: Float64Array
  readonly lastIn: Float64Array
  /** When each worker has room for this layer and can pass it on. */
  readonly credit: Float64Array
  /** When the first block of this layer is at the decode node, and when the last one is: `FIRST` and `LAST`. */
  readonly atTail: Float64Array
}

const FIRST = 0
const LAST = 1

/** Nothing has begun. The same memory each time: whoever simulates is done with it when the next one does. */
function startOf(count: number, cards: number): State {
  if (scratch.done.length < count || scratch.cardFree.length < cards)
    scratch = emptyState(Math.max(count, scratch.done.length), Math.max(cards, scratch.cardFree.length))
  const { done, carried, handedOff, pastDone, pastCarried, cardFree } = scratch
  for (const each of [done, carried, handedOff]) each.fill(0, 0, count)
  for (const each of [pastDone, pastCarried]) each.fill(0, 0, KEPT * count)
  cardFree.fill(0, 0, cards)
  return scratch
}

function emptyState(count: number, cards: number): State {
  const zeros = (length: number) => new Float64Array(length)
  return {
    seconds: zeros(count * ROW),
    cards: new Int32Array(count * CARDS),
    done: zeros(count),
    first: zeros(count),
    projected: zeros(count),
    carried: zeros(count),
    handedOff: zeros(count),
    pastDone: zeros(KEPT * count),
    pastCarried: zeros(KEPT * count),
    cardFree: zeros(cards),
    firstIn: zeros(count),
    lastIn: zeros(count),
    credit: zeros(count),
    atTail: zeros(2),
  }
}

let scratch = emptyState(16, 64)

/** The last layer is projected, and its blocks go to the decode node only. */
function projectOnly(workers: number, state: State): void {
  const { seconds, done, atTail } = state
  atTail[LAST] = 0
  for (let i = 0; i < workers; i++) {
    const row = i * ROW
    handOff(i, done[i]! + seconds[row + FIRST_BLOCK]!, done[i]! + seconds[row + PROJECTED]!, state)
  }
}

/** One layer of a chain: everything flows one way, so each worker is settled before the next. */
function passDown(workers: number, state: State): void {
  const { seconds, done, carried, credit } = state
  let firstCome = Number.NEGATIVE_INFINITY
  let lastCome = Number.NEGATIVE_INFINITY
  for (let i = 0; i < workers; i++) {
    const row = i * ROW
    const start = done[i]!
    const first = start + seconds[row + FIRST_BLOCK]!
    const projected = start + seconds[row + PROJECTED]!
    const attended = later(firstCome + seconds[row + AFTER_FIRST]!, lastCome + seconds[row + AFTER_LAST]!)
    done[i] = later(start + seconds[row + LAYER]!, attended)
    const to = i + 1
    if (to < workers) {
      const link = row + ROW + PREFIX
      const own = seconds[link + OWN]!
      const relayed = seconds[link + RELAYED]!
      const block = seconds[link + BLOCK]!
      const latency = seconds[link + LATENCY]!
      const begin = later(later(carried[to]!, credit[to]!), i === 0 ? first : sooner(first, firstCome))
      const bothEnd = later(later(begin + own + relayed, later(begin, first) + own), projected + block)
      const relayEnd = later(later(begin, firstCome) + relayed, lastCome + block)
      const end = later(later(bothEnd, relayEnd), throughCards(link, to * CARDS, begin, state))
      carried[to] = end
      firstCome = begin + block + latency
      lastCome = end + latency
    }
    handOff(i, first, projected, state)
  }
}

/** One layer of a ring: all that a worker makes goes round, so each waits for all others. */
function turnRing(workers: number, state: State): void {
  const { seconds, done, first, projected, carried, credit, firstIn, lastIn } = state
  for (let i = 0; i < workers; i++) {
    first[i] = done[i]! + seconds[i * ROW + FIRST_BLOCK]!
    projected[i] = done[i]! + seconds[i * ROW + PROJECTED]!
  }
  if (workers > 1) {
    arriveRound(workers, state)
    for (let i = 0; i < workers; i++) {
      const link = i * ROW + PREFIX
      const begin = later(later(carried[i]!, credit[i]!), first[i > 0 ? i - 1 : workers - 1]!)
      const whole = begin + seconds[link + OWN]! + seconds[link + RELAYED]!
      carried[i] = later(later(whole, lastIn[i]!), throughCards(link, i * CARDS, begin, state))
      firstIn[i] = begin + seconds[link + BLOCK]! + seconds[link + LATENCY]!
      lastIn[i] = carried[i]! + seconds[link + LATENCY]!
    }
  }
  for (let i = 0; i < workers; i++) {
    const row = i * ROW
    handOff(i, first[i]!, projected[i]!, state)
    const own = done[i]! + seconds[row + LAYER]!
    const others = later(firstIn[i]! + seconds[row + AFTER_FIRST]!, lastIn[i]! + seconds[row + AFTER_LAST]!)
    done[i] = workers > 1 ? later(own, others) : own
  }
}

/**
 * When the last block of the last maker could have come to each worker, were every link free for it: projected, and a
 * block's time and the latency of each hop. (The last hop's latency is left out: the caller adds it.) Everyone else is a
 * maker, so the maximum over the others is one over those before and one over those behind on the circle.
 */
function arriveRound(workers: number, { seconds, projected, lastIn }: State): void {
  let way = 0
  let before = Number.NEGATIVE_INFINITY
  for (let i = 0; i < workers; i++) {
    if (i > 0) way += hop(seconds, i)
    lastIn[i] = before + way
    before = later(before, projected[i]! - way)
  }
  const round = way + seconds[PREFIX + LATENCY]! + seconds[PREFIX + BLOCK]!
  let behind = Number.NEGATIVE_INFINITY
  for (let i = workers - 1; i >= 0; i--) {
    lastIn[i] = later(lastIn[i]!, behind + round + way) - seconds[i * ROW + PREFIX + LATENCY]!
    behind = later(behind, projected[i]! - way)
    if (i > 0) way -= hop(seconds, i)
  }
}

const hop = (seconds: Float64Array, to: number): number =>
  seconds[to * ROW + PREFIX + LATENCY]! + seconds[to * ROW + PREFIX + BLOCK]!

/** A layer is sent when the receiver has finished, and passed on, the one that lies the window behind it. */
function grant(workers: number, ring: boolean, layer: number, { seconds, credit, pastDone, pastCarried }: State): void {
  if (layer < CREDIT_LAYERS) {
    credit.fill(Number.NEGATIVE_INFINITY, 0, workers)
    return
  }
  const past = ((layer - CREDIT_LAYERS) % KEPT) * workers
  for (let i = 0; i < workers; i++) {
    const next = i + 1 < workers ? i + 1 : 0
    const finished = pastDone[past + i]!
    const passed = ring || next > 0 ? later(finished, pastCarried[past + next]!) : finished
    credit[i] = passed + seconds[i * ROW + PREFIX + LATENCY]!
  }
}

function remember(layer: number, count: number, { done, carried, pastDone, pastCarried }: State): void {
  const row = (layer % KEPT) * count
  for (let i = 0; i < count; i++) {
    pastDone[row + i] = done[i]!
    pastCarried[row + i] = carried[i]!
  }
}

function handOff(i: number, first: number, projected: number, state: State): void {
  const { seconds, handedOff, atTail } = state
  const way = i * ROW + HANDOFF
  const block = seconds[way + BLOCK]!
  const latency = seconds[way + LATENCY]!
  const begin = later(handedOff[i]!, first)
  const carried = later(begin + seconds[way + OWN]!, projected + block)
  const end = later(carried, throughCards(way, i * CARDS + HANDOFF_CARDS, begin, state))
  handedOff[i] = end
  atTail[FIRST] = sooner(atTail[FIRST]!, begin + block + latency)
  atTail[LAST] = later(atTail[LAST]!, end + latency)
}

/** When the cards are done with a transfer: each adds what it has to carry to what it still has to carry. */
function throughCards(link: number, pair: number, begin: number, { seconds, cards, cardFree }: State): number {
  const out = cards[pair]!
  if (out < 0) return begin
  const into = cards[pair + 1]!
  const sent = later(cardFree[out]!, begin) + seconds[link + OUT]!
  const received = later(cardFree[into]!, begin) + seconds[link + IN]!
  cardFree[out] = sent
  cardFree[into] = received
  return later(sent, received)
}
