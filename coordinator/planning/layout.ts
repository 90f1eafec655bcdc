import { type Span, type Strategy, spanTokens, type Wire } from '../../shared/plan.ts'
import { othersOf, prefillBytes } from '../../shared/prefill-memory.ts'
import type { Cost } from '../../shared/protocol/control.ts'
import type { Context } from './context.ts'
import {
  headSeconds,
  layerSeconds,
  mixSeconds,
  prefixAttentionSeconds,
  projectSeconds,
  spanSeconds,
  takeInSeconds,
} from './cost.ts'
import { movedTokens } from './moving.ts'
import { rateOf } from './network.ts'
import type { Pipeline, Tail, Transfers, Work } from './simulate.ts'

/** A candidate before it is written out as a plan. */
export interface Layout {
  readonly strategy: Strategy
  /** Numbers of workers in the context, in the order of the chain or ring, and what each computes and how it sends. */
  readonly members: readonly number[]
  readonly spans: readonly (readonly Span[])[]
  readonly prefixWires: readonly Wire[]
  readonly handoffWires: readonly Wire[]
}

export const prefillTokens = ({ spans }: Layout): number => spans.reduce((sum, own) => sum + spanTokens(own), 0)

/** Cost of a worker among these members; `tail`: the decode node has more to compute than the last token. */
export function costOf(
  { workers, decode }: Context,
  member: number,
  { members, tail }: { members: readonly number[]; tail: boolean },
): Cost {
  const { host, cost, sharedCost } = workers[member]!
  if (sharedCost === undefined) return cost
  const beside = members.some((other) => other !== member && workers[other]!.host === host)
  return beside || (tail && decode.host === host) ? sharedCost : cost
}

/** Who computes in a layout, as `costOf` wants it. */
export const companyOf = (layout: Layout, { promptTokens }: Context) => ({
  members: layout.members,
  tail: promptTokens - prefillTokens(layout) > 1,
})

/** The decode node takes more than the last token only if that takes no core from a worker. */
export function mayShare({ decode, workers }: Context, members: readonly number[]): boolean {
  if (decode.cost === undefined) return false
  const neighbours = members.filter((member) => workers[member]!.host === decode.host)
  const threads = neighbours.reduce((sum, member) => sum + workers[member]!.threads, decode.threads)
  return neighbours.length === 0 || threads <= decode.cores
}

/** What memory a worker's part takes, bytes. */
export function workerBytes({ shape }: Context, layout: Layout, at: number): number {
  const spans = layout.spans[at]!
  const others = othersOf(layout.strategy, spans, prefillTokens(layout))
  return prefillBytes(shape, { own: spanTokens(spans), others })
}

export const fits = (context: Context, layout: Layout): boolean =>
  context.promptTokens - prefillTokens(layout) <= context.tailRoom &&
  layout.members.every((member, at) => {
    const { budgetBytes } = context.workers[member]!
    return budgetBytes === undefined || workerBytes(context, layout, at) <= budgetBytes
  })

/** The durations of a layout. */
export function pipelineOf(context: Context, layout: Layout): Pipeline {
  const { shape, network } = context
  const { members, spans } = layout
  const ring = layout.strategy === 'ring'
  const count = members.length
  const work = emptyWork()
  const [prefix, handoff] = [emptyTransfers(), emptyTransfers()]
  const tokens = spans.map(spanTokens)
  const total = tokens.reduce((sum, own) => sum + own, 0)
  const moved = movedTokens(layout.strategy, spans)
  const made = tokens.map((own, at) => own * context.wireBytes[layout.prefixWires[at]!])
  const allMade = made.reduce((sum, own) => sum + own, 0)
  const company = companyOf(layout, context)
  let before = 0
  members.forEach((member, at) => {
    const cost = costOf(context, member, company)
    const { prefix: passed, received, relayed } = moved[at]!
    putWork(work, context, cost, { spans: spans[at]!, others: received, own: passed + tokens[at]!, relayed })
    const from = (at + count - 1) % count
    const carried = ring ? allMade - made[at]! : before
    if (at > 0 || (ring && count > 1))
      putTransfer(prefix, context, members[from]!, member, {
        own: made[from]!,
        relayed: carried - made[from]!,
        block: blockBytes(context, tokens[from]!, made[from]!),
      })
    else putTransfer(prefix, context, member, member, NOTHING)
    before += made[at]!
    const own = tokens[at]! * context.wireBytes[layout.handoffWires[at]!]
    const block = blockBytes(context, tokens[at]!, own)
    putTransfer(handoff, context, member, network.size - 1, { own, relayed: 0, block })
  })
  const tail = tailSeconds(context, total)
  return { layers: shape.layers, ring, work, prefix, handoff, tail, cards: 2 * network.out.length }
}

/**
 * No simulation comes to less: every layer's blocks have to come to the decode node, over their links and into its host,
 * and those of all layers but the last to the workers that follow.
 */
export function carriedSeconds(context: Context, layout: Layout): number {
  const { shape, network, wireBytes } = context
  const { members, spans, handoffWires, prefixWires } = layout
  const ring = layout.strategy === 'ring'
  const decode = network.size - 1
  const host = network.host[decode]!
  const made = spans.map((own, at) => spanTokens(own) * wireBytes[prefixWires[at]!])
  const allMade = made.reduce((sum, own) => sum + own, 0)
  let [slowest, entering, passing, before] = [0, 0, 0, 0]
  for (const [at, member] of members.entries()) {
    const bytes = spanTokens(spans[at]!) * wireBytes[handoffWires[at]!]
    slowest = Math.max(slowest, bytes / rateOf(network, member, decode))
    if (network.host[member] !== host) entering += bytes
    const from = members.at(at - 1)!
    const passed = ring ? allMade - made[at]! : before
    if (passed > 0) passing = Math.max(passing, passed / rateOf(network, from, member))
    before += made[at]!
  }
  const handedOff = shape.layers * Math.max(slowest, entering / network.in[host]!)
  return Math.max(handedOff, (shape.layers - 1) * passing)
}

const blockBytes = ({ blockTokens }: Context, tokens: number, bytes: number): number =>
  tokens <= blockTokens ? bytes : (bytes * blockTokens) / tokens

const emptyWork = (): Work => ({ layer: [], projected: [], firstBlock: [], afterFirst: [], afterLast: [] })

interface Part {
  readonly spans: readonly Span[]
  /** Tokens of other workers that these meet, and those of them that go on to the next worker. */
  readonly others: number
  readonly relayed: number
  /** Own tokens, as often as they leave. */
  readonly own: number
}

function putWork(work: Work, context: Context, cost: Cost, part: Part): void {
  const { shape, blockTokens } = context
  const { spans, others } = part
  const { s = 0 } = cost
  const tokens = spanTokens(spans)
  const projected = projectSeconds(cost, spans, shape)
  const mixed = mixSeconds(cost, tokens, shape)
  const first = spans[0]!
  const last = spans.at(-1)!
  const block = Math.min(blockTokens, others)
  const taken = takeInSeconds(cost, others) + s * (others + part.relayed)
  work.layer.push(layerSeconds(cost, spans) + taken + s * part.own)
  work.projected.push(projected)
  work.firstBlock.push((projected * Math.min(blockTokens, first.end - first.start)) / tokens)
  work.afterFirst.push(prefixAttentionSeconds(cost, spans) + taken + mixed)
  const blockTaken = others === 0 ? 0 : (taken * block) / others
  work.afterLast.push(cost.b * (last.end - last.start) * block + blockTaken + mixed)
}

/** The decode node's own tokens, from `start` on. Of the last layer it computes the last token alone, then the logits. */
function tailSeconds({ shape, promptTokens, blockTokens, tailCost }: Context, start: number): Tail {
  const span = { start, end: promptTokens }
  const last = { start: promptTokens - 1, end: promptTokens }
  const mixed = mixSeconds(tailCost, promptTokens - start, shape)
  const head = headSeconds(tailCost, shape)
  const lastMixed = mixSeconds(tailCost, 1, shape)
  const block = Math.min(blockTokens, start)
  const lastBlock = tailCost.b * block
  const taken = takeInSeconds(tailCost, start) + (tailCost.s ?? 0) * start
  const blockTaken = start === 0 ? 0 : (taken * block) / start
  return {
    layer: spanSeconds(tailCost, span) + taken,
    afterFirst: prefixAttentionSeconds(tailCost, [span]) + taken + mixed,
    afterLast: lastBlock * (promptTokens - start) + blockTaken + mixed,
    lastLayer: projectSeconds(tailCost, [span], shape) + taken + tailCost.b * (last.start + 0.5) + lastMixed + head,
    lastAfterLast: lastBlock + blockTaken + lastMixed + head,
  }
}

interface Bytes {
  readonly own: number
  readonly relayed: number
  readonly block: number
}

const emptyTransfers = (): Transfers => ({
  latency: [],
  own: [],
  relayed: [],
  block: [],
  out: [],
  outSeconds: [],
  in: [],
  inSeconds: [],
})

const NOTHING: Bytes = { own: 0, relayed: 0, block: 0 }

function putTransfer(t: Transfers, { network }: Context, from: number, to: number, bytes: Bytes): void {
  const { size, host } = network
  const [sender, receiver] = [host[from]!, host[to]!]
  const rate = rateOf(network, from, to)
  const inside = sender === receiver
  t.latency.push(network.latency[from * size + to]!)
  t.own.push(bytes.own / rate)
  t.relayed.push(bytes.relayed / rate)
  t.block.push(bytes.block / rate)
  t.out.push(inside ? -1 : 2 * sender)
  t.outSeconds.push(inside ? 0 : (bytes.own + bytes.relayed) / network.out[sender]!)
  t.in.push(inside ? -1 : 2 * receiver + 1)
  t.inSeconds.push(inside ? 0 : (bytes.own + bytes.relayed) / network.in[receiver]!)
}
