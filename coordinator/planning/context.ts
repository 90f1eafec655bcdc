import { HeadraceError } from '../../shared/errors.ts'
import { MAX_BLOCK_BYTES } from '../../shared/link/link.ts'
import { kvBytesPerTokenLayer, type ModelShape } from '../../shared/model-shape.ts'
import type { Wire } from '../../shared/plan.ts'
import { stateBytesPerToken } from '../../shared/prefill-memory.ts'
import type { Cost } from '../../shared/protocol/control.ts'
import { groupsOf } from './about-equal.ts'
import { slowedCost, spanSeconds } from './cost.ts'
import { type Parts, partsOf } from './delay.ts'
import type { DecodeFacts, PlanFacts, PrefillFacts } from './facts.ts'
import { type Cards, cardsOf, linkFrom, type Network, networkOf } from './network.ts'
import { wireBytesPerTokenLayer, wiresDownTo } from './wire.ts'

/** Facts as the planner works with them, the same for all candidates. */
export interface Context {
  readonly shape: ModelShape
  readonly promptTokens: number
  /** The same for every plan, so that it decides nothing. */
  readonly edgeSeconds: number
  readonly blockTokens: number
  /** Numbered from here on: best first for the whole prompt, by name among equals. */
  readonly workers: readonly PrefillFacts[]
  /** Of each of them, its place in a chain where nothing else matters: by name among those that are about as good. */
  readonly rank: readonly number[]
  readonly decode: DecodeFacts
  /** Prompts that wait behind this one, and what part of the cluster each worker is. */
  readonly behind: number
  readonly parts: Parts
  /** Where prompts wait, every worker: those that a plan leaves are busy with them. */
  readonly busy: readonly number[] | undefined
  /** Costs are those of a worker among others; alone it takes so many times as long. */
  readonly soloBySplit: number
  /** The decode node's cost; where it is not calibrated, the best worker's stands in for it. */
  readonly tailCost: Cost
  /** Most tokens that the decode node has room to compute. */
  readonly tailRoom: number
  readonly network: Network
  /** Widest first. */
  readonly wires: readonly Wire[]
  /** Bytes of a token and layer. */
  readonly wireBytes: Readonly<Record<Wire, number>>
  /** What a token of a chunk takes while its layer is computed, bytes; and its K and V in one layer. */
  readonly stateBytes: number
  readonly kvBytes: number
}

/** Throws `no_decode_node`, or `plan_impossible` if none has room for the prompt. */
export function contextOf(given: PlanFacts): Context {
  const facts = paced(given)
  const { shape, promptTokens } = facts
  const kvBytes = kvBytesPerTokenLayer(shape)
  const stateBytes = stateBytesPerToken(shape)
  const neededBytes = (promptTokens + (facts.maxTokens ?? 0)) * kvBytes * shape.layers
  const decode = decodeNode(facts, neededBytes)
  const cards = cardsOf([...facts.workers, decode], facts.links)
  const fastest = fastestFirst(facts, decode, cards)
  const workers = fastest.map(({ worker }) => worker)
  const free = (decode.budgetBytes ?? Number.POSITIVE_INFINITY) - neededBytes
  return {
    shape,
    promptTokens,
    edgeSeconds: facts.edgeSeconds ?? 0,
    blockTokens: blockTokens(shape, facts.blockTokens),
    workers,
    rank: rankOf(fastest),
    behind: facts.behind ?? 0,
    parts: partsOf(workers, decode, promptTokens),
    busy: facts.behind ? [...workers.keys()] : undefined,
    soloBySplit: given.pace === undefined ? 1 : given.pace.solo / given.pace.split,
    decode,
    tailCost: decode.cost ?? fastestToken(facts),
    tailRoom: 1 + Math.floor(free / stateBytes),
    network: networkOf(workers, decode, facts.links, cards),
    wires: wiresDownTo(facts.narrowestWire),
    wireBytes: {
      f32: wireBytesPerTokenLayer(shape, 'f32'),
      f16: wireBytesPerTokenLayer(shape, 'f16'),
      int8: wireBytesPerTokenLayer(shape, 'int8'),
    },
    stateBytes,
    kvBytes,
  }
}

/** What runs take longer than was simulated is arithmetic's: links are measured, and carry no more for it. */
function paced(facts: PlanFacts): PlanFacts {
  const { workers, decode } = facts
  const pace = facts.pace?.split ?? 1
  if (pace === 1) return facts
  return {
    ...facts,
    workers: workers.map(({ sharedCost, ...worker }) => ({
      ...worker,
      cost: slowedCost(worker.cost, pace),
      ...(sharedCost !== undefined && { sharedCost: slowedCost(sharedCost, pace) }),
    })),
    decode: decode.map((node) => ({
      ...node,
      ...(node.cost !== undefined && { cost: slowedCost(node.cost, pace) }),
    })),
  }
}

/** The one that holds the fewest runs, of those with room; among equals the first by name. */
function decodeNode({ decode }: PlanFacts, neededBytes: number): DecodeFacts {
  if (decode.length === 0) throw new HeadraceError('no_decode_node', 'no decode node is ready')
  const roomy = decode.filter(({ budgetBytes }) => budgetBytes === undefined || budgetBytes >= neededBytes)
  const [best] = roomy.toSorted((x, y) => x.runs - y.runs || (x.id < y.id ? -1 : 1))
  if (best !== undefined) return best
  const budgetBytes = Math.max(...decode.map((node) => node.budgetBytes ?? 0))
  throw new HeadraceError(
    'plan_impossible',
    `the KV cache takes ${neededBytes} bytes, the decode node with most room has ${budgetBytes}`,
    { details: { neededBytes, budgetBytes } },
  )
}

/** How soon a worker would have the whole prompt alone and handed off. */
interface Alone {
  readonly worker: PrefillFacts
  readonly seconds: number
}

/** In the order of how soon each would have the whole prompt. */
function fastestFirst({ workers, promptTokens, shape, links }: PlanFacts, decode: DecodeFacts, cards: Cards): Alone[] {
  const alone = workers.map((worker) => {
    const { bytesPerSecond, rttSeconds } = linkFrom(worker, decode, links, cards)
    const carried = (promptTokens * kvBytesPerTokenLayer(shape)) / bytesPerSecond
    const layer = Math.max(spanSeconds(worker.cost, { start: 0, end: promptTokens }), carried)
    return layer * shape.layers + rttSeconds / 2
  })
  return workers
    .map((worker, i) => ({ worker, seconds: alone[i]! }))
    .toSorted((x, y) => x.seconds - y.seconds || (x.worker.id < y.worker.id ? -1 : 1))
}

/**
 * Slower by less than this is as fast. Costs go up and down with every run: if that changed who comes first, it would always
 * be who has just been measured too fast, and in another place. In any order, workers of a chain finish about as early.
 */
const ABOUT_AS_FAST = 1.3

function rankOf(fastest: readonly Alone[]): number[] {
  const groups = groupsOf(
    fastest.map(({ seconds }) => seconds),
    ABOUT_AS_FAST,
  )
  const id = (i: number): string => fastest[i]!.worker.id
  const order = [...groups.keys()].sort((x, y) => groups[x]! - groups[y]! || (id(x) < id(y) ? -1 : 1))
  return fastest.map((_, i) => order.indexOf(i))
}

function fastestToken({ workers, promptTokens }: PlanFacts): Cost {
  const last = { start: promptTokens - 1, end: promptTokens }
  const free: Cost = { o: 0, a: 0, b: 0 }
  return workers.reduce(
    (best, { cost }) => (best === free || spanSeconds(cost, last) < spanSeconds(best, last) ? cost : best),
    free,
  )
}

/** A multiple of 64 whose K and V fit a frame; below 64, as many as fit (or as are wanted). */
function blockTokens(shape: ModelShape, wanted = 512): number {
  const most = Math.min(wanted, 512, Math.floor(MAX_BLOCK_BYTES / kvBytesPerTokenLayer(shape)))
  return most < 64 ? Math.max(1, most) : most - (most % 64)
}
