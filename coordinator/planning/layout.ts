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
  slowedCost,
  spanSeconds,
  takeInSeconds,
} from './cost.ts'
import { movedTokens } from './moving.ts'
import { rateOf } from './network.ts'
import type { Pipeline, Tail, Transfer, Work } from './simulate.ts'

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
  { workers, decode, soloBySplit, busy }: Context,
  member: number,
  { members, tail }: { members: readonly number[]; tail: boolean },
): Cost {
  const { host, cost, sharedCost } = workers[member]!
  const computing = busy ?? members
  if (computing.length === 1 && !tail) return soloBySplit === 1 ? cost : slowedCost(cost, soloBySplit)
  if (sharedCost === undefined) return cost
  const beside = computing.some((other) => other !== member && workers[other]!.host === host)
  return beside || (tail && decode.host === host) ? sharedCost : cost
}

/** Who computes in a layout, as `costOf` wants it. */
export const companyOf = (layout: Layout, { promptTokens }: Context) => ({
  members: layout.members,
  tail: promptTokens - prefillTokens(layout) > 1,
})

/** The decode node takes more than the last token only if that takes no core from a worker. */
export function mayShare({ decode, workers, busy }: Context, members: readonly number[]): boolean {
  if (decode.cost === undefined) return false
  const neighbours = (busy ?? members).filter((member) => workers[member]!.host === decode.host)
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
export const pipelineOf = (context: Context, layout: Layout): Pipeline => ({
  layers: context.shape.layers,
  ring: layout.strategy === 'ring',
  work: worksOf(context, layout),
  prefix: prefixesOf(context, layout),
  handoff: handoffsOf(context, layout),
  tail: tailSeconds(context, prefillTokens(layout)),
  cards: 2 * context.network.out.length,
})

/** The same, where only these wires of the layout are others than those that `pipeline` is of. */
export const rewired = (context: Context, layout: Layout, pipeline: Pipeline, wires: Wires): Pipeline => ({
  layers: pipeline.layers,
  ring: pipeline.ring,
  work: pipeline.work,
  prefix: wires === 'prefixWires' ? prefixesOf(context, layout) : pipeline.prefix,
  handoff: wires === 'handoffWires' ? handoffsOf(context, layout) : pipeline.handoff,
  tail: pipeline.tail,
  cards: pipeline.cards,
})

export type Wires = 'prefixWires' | 'handoffWires'

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

function worksOf(context: Context, layout: Layout): Work[] {
  const { shape, blockTokens } = context
  const company = companyOf(layout, context)
  const moved = movedTokens(layout.strategy, layout.spans)
  return layout.members.map((member, at) => {
    const cost = costOf(context, member, company)
    const spans = layout.spans[at]!
    const { prefix, received, relayed } = moved[at]!
    const { s = 0 } = cost
    const tokens = spanTokens(spans)
    const projected = projectSeconds(cost, spans, shape)
    const mixed = mixSeconds(cost, tokens, shape)
    const first = spans[0]!
    const last = spans.at(-1)!
    const block = Math.min(blockTokens, received)
    const taken = takeInSeconds(cost, received) + s * (received + relayed)
    const blockTaken = received === 0 ? 0 : (taken * block) / received
    return [
      layerSeconds(cost, spans) + taken + s * (prefix + tokens),
      projected,
      (projected * Math.min(blockTokens, first.end - first.start)) / tokens,
      prefixAttentionSeconds(cost, spans) + taken + mixed,
      cost.b * (last.end - last.start) * block + blockTaken + mixed,
    ]
  })
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

function prefixesOf(context: Context, { strategy, members, spans, prefixWires }: Layout): Transfer[] {
  const { wireBytes } = context
  const ring = strategy === 'ring'
  const made = spans.map((own, at) => spanTokens(own) * wireBytes[prefixWires[at]!])
  const allMade = made.reduce((sum, own) => sum + own, 0)
  let before = 0
  return members.map((member, at) => {
    const from = at > 0 ? at - 1 : members.length - 1
    const own = made[from]!
    const carried = ring ? allMade - made[at]! : before
    before += made[at]!
    if (at === 0 && (!ring || from === 0)) return transferOf(context, member, member, 0, 0, 0)
    return transferOf(context, members[from]!, member, own, carried - own, blockBytes(own, spans[from]!, context))
  })
}

function handoffsOf(context: Context, { members, spans, handoffWires }: Layout): Transfer[] {
  const { wireBytes, network } = context
  return members.map((member, at) => {
    const own = spanTokens(spans[at]!) * wireBytes[handoffWires[at]!]
    return transferOf(context, member, network.size - 1, own, 0, blockBytes(own, spans[at]!, context))
  })
}

const blockBytes = (bytes: number, spans: readonly Span[], { blockTokens }: Context): number => {
  const tokens = spanTokens(spans)
  return tokens <= blockTokens ? bytes : (bytes * blockTokens) / tokens
}

/** Bytes of a layer from one to another: what `from` made, what it passes on, and a block. */
function transferOf(
  { network }: Context,
  from: number,
  to: number,
  own: number,
  relayed: number,
  block: number,
): Transfer {
  const { size, host } = network
  const sender = host[from]!
  const receiver = host[to]!
  const rate = rateOf(network, from, to)
  const inside = sender === receiver
  return [
    network.latency[from * size + to]!,
    own / rate,
    relayed / rate,
    block / rate,
    inside ? 0 : (own + relayed) / network.out[sender]!,
    inside ? 0 : (own + relayed) / network.in[receiver]!,
    inside ? -1 : 2 * sender,
    inside ? -1 : 2 * receiver + 1,
  ]
}
