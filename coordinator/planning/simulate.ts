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

export interface Simulated {
  readonly ttftSeconds: number
  /** When each worker's last block is at the decode node. */
  readonly finished: Each
}

/** Layers that a sender may be ahead of its receiver (`worker/prefill/run-exchange.ts`). */
const CREDIT_LAYERS = 3
const KEPT = CREDIT_LAYERS + 1

export function simulate(pipeline: Pipeline): Simulated {
  const { layers, work, tail, handoff } = pipeline
  const count = work.layer.length
  const state = startOf(count, pipeline.cards)
  let tailDone = 0
  for (let layer = 0; layer < layers - 1; layer++) {
    state.firstAtTail = count === 0 ? 0 : Number.POSITIVE_INFINITY
    state.lastAtTail = 0
    if (pipeline.ring) turnRing(pipeline, layer, state)
    else passDown(pipeline, layer, state)
    remember(layer, count, state)
    const attended = Math.max(state.firstAtTail + tail.afterFirst, state.lastAtTail + tail.afterLast)
    tailDone = Math.max(tailDone + tail.layer, attended)
  }
  projectOnly(pipeline, state)
  const ttftSeconds = Math.max(tailDone + tail.lastLayer, state.lastAtTail + tail.lastAfterLast)
  return { ttftSeconds, finished: handoff.latency.map((seconds, i) => state.handedOff[i]! + seconds) }
}

interface State {
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
  firstAtTail: number
  lastAtTail: number
}

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
    firstAtTail: 0,
    lastAtTail: 0,
  }
}

let scratch = emptyState(16, 64)

/** The last layer is projected, and its blocks go to the decode node only. */
function projectOnly({ work, handoff }: Pipeline, state: State): void {
  const { done } = state
  state.lastAtTail = 0
  for (let i = 0; i < work.layer.length; i++) {
    handOff(handoff, i, done[i]! + work.firstBlock[i]!, done[i]! + work.projected[i]!, state)
    done[i]! += work.projected[i]!
  }
}

/** One layer of a chain: everything flows one way, so each worker is settled before the next. */
function passDown({ work, prefix, handoff }: Pipeline, layer: number, state: State): void {
  const { done, carried } = state
  const count = work.layer.length
  let firstCome = Number.NEGATIVE_INFINITY
  let lastCome = Number.NEGATIVE_INFINITY
  for (let i = 0; i < count; i++) {
    const start = done[i]!
    const first = start + work.firstBlock[i]!
    const projected = start + work.projected[i]!
    const attended = Math.max(firstCome + work.afterFirst[i]!, lastCome + work.afterLast[i]!)
    done[i] = Math.max(start + work.layer[i]!, attended)
    const to = i + 1
    if (to < count) {
      const own = prefix.own[to]!
      const relayed = prefix.relayed[to]!
      const block = prefix.block[to]!
      const latency = prefix.latency[to]!
      const credit = creditTime(to, to + 1 < count ? to + 1 : -1, layer, count, state) + latency
      const begin = Math.max(carried[to]!, credit, i === 0 ? first : Math.min(first, firstCome))
      const bothEnd = Math.max(begin + own + relayed, Math.max(begin, first) + own, projected + block)
      const relayEnd = Math.max(Math.max(begin, firstCome) + relayed, lastCome + block)
      const end = throughCards(prefix, to, begin, Math.max(bothEnd, relayEnd), state)
      carried[to] = end
      firstCome = begin + block + latency
      lastCome = end + latency
    }
    handOff(handoff, i, first, projected, state)
  }
}

/** One layer of a ring: all that a worker makes goes round, so each waits for all others. */
function turnRing({ work, prefix, handoff }: Pipeline, layer: number, state: State): void {
  const { done, first, projected, carried, firstIn, lastIn } = state
  const count = work.layer.length
  for (let i = 0; i < count; i++) {
    first[i] = done[i]! + work.firstBlock[i]!
    projected[i] = done[i]! + work.projected[i]!
  }
  if (count > 1) {
    arriveRound(prefix, state)
    for (let i = 0; i < count; i++) {
      const latency = prefix.latency[i]!
      const credit = creditTime(i, i + 1 < count ? i + 1 : 0, layer, count, state) + latency
      const begin = Math.max(carried[i]!, credit, first[i > 0 ? i - 1 : count - 1]!)
      const whole = begin + prefix.own[i]! + prefix.relayed[i]!
      const end = throughCards(prefix, i, begin, Math.max(whole, lastIn[i]!), state)
      carried[i] = end
      firstIn[i] = begin + prefix.block[i]! + latency
      lastIn[i] = end + latency
    }
  }
  for (let i = 0; i < count; i++) {
    handOff(handoff, i, first[i]!, projected[i]!, state)
    done[i]! += work.layer[i]!
    if (count > 1) done[i] = Math.max(done[i]!, firstIn[i]! + work.afterFirst[i]!, lastIn[i]! + work.afterLast[i]!)
  }
}

/**
 * When the last block of the last maker could have come to each worker, were every link free for it: projected, and a
 * block's time and the latency of each hop. (The last hop's latency is left out: the caller adds it.) Everyone else is a
 * maker, so the maximum over the others is one over those before and one over those behind on the circle.
 */
function arriveRound({ latency, block }: Transfers, { projected, lastIn }: State): void {
  const count = latency.length
  let way = 0
  let before = Number.NEGATIVE_INFINITY
  for (let i = 0; i < count; i++) {
    if (i > 0) way += latency[i]! + block[i]!
    lastIn[i] = before + way
    before = Math.max(before, projected[i]! - way)
  }
  const round = way + latency[0]! + block[0]!
  let behind = Number.NEGATIVE_INFINITY
  for (let i = count - 1; i >= 0; i--) {
    lastIn[i] = Math.max(lastIn[i]!, behind + round + way) - latency[i]!
    behind = Math.max(behind, projected[i]! - way)
    if (i > 0) way -= latency[i]! + block[i]!
  }
}

/** The receiver has finished, and passed on, the layer that lies the window behind this one. */
function creditTime(receiver: number, next: number, layer: number, count: number, state: State): number {
  if (layer < CREDIT_LAYERS) return Number.NEGATIVE_INFINITY
  const row = ((layer - CREDIT_LAYERS) % KEPT) * count
  const finished = state.pastDone[row + receiver]!
  return next < 0 ? finished : Math.max(finished, state.pastCarried[row + next]!)
}

function remember(layer: number, count: number, { done, carried, pastDone, pastCarried }: State): void {
  const row = (layer % KEPT) * count
  for (let i = 0; i < count; i++) {
    pastDone[row + i] = done[i]!
    pastCarried[row + i] = carried[i]!
  }
}

function handOff(handoff: Transfers, i: number, first: number, projected: number, state: State): void {
  const begin = Math.max(state.handedOff[i]!, first)
  const whole = Math.max(begin + handoff.own[i]!, projected + handoff.block[i]!)
  const end = throughCards(handoff, i, begin, whole, state)
  const latency = handoff.latency[i]!
  state.handedOff[i] = end
  state.firstAtTail = Math.min(state.firstAtTail, begin + handoff.block[i]! + latency)
  state.lastAtTail = Math.max(state.lastAtTail, end + latency)
}

/** A card adds what it has to carry to what it still has to carry. */
function throughCards(transfers: Transfers, i: number, begin: number, end: number, { cardFree }: State): number {
  const out = transfers.out[i]!
  if (out < 0) return end
  const into = transfers.in[i]!
  const sent = Math.max(cardFree[out]!, begin) + transfers.outSeconds[i]!
  const received = Math.max(cardFree[into]!, begin) + transfers.inSeconds[i]!
  cardFree[out] = sent
  cardFree[into] = received
  return Math.max(end, sent, received)
}

/** The same pipeline on links of other speed and length. */
export function scaled(pipeline: Pipeline, links: number, latency: number): Pipeline {
  const change = (t: Transfers): Transfers => ({
    ...t,
    latency: t.latency.map((seconds) => seconds * latency),
    own: t.own.map((seconds) => seconds * links),
    relayed: t.relayed.map((seconds) => seconds * links),
    block: t.block.map((seconds) => seconds * links),
    outSeconds: t.outSeconds.map((seconds) => seconds * links),
    inSeconds: t.inSeconds.map((seconds) => seconds * links),
  })
  return { ...pipeline, prefix: change(pipeline.prefix), handoff: change(pipeline.handoff) }
}
