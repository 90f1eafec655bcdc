/**
 * What limits a plan, and who. Time to first token is a sum of durations along one critical path, so how much it grows when
 * every link (every latency) takes a little longer is how much of the path is theirs; the rest is arithmetic.
 */
import type { Bound } from '../../shared/plan.ts'
import type { Context } from './context.ts'
import { evaluate, type Timed } from './evaluate.ts'
import { type Layout, prefillTokens, workerBytes } from './layout.ts'
import { simulate, type Transfer } from './simulate.ts'

export interface Limit {
  readonly bound: Bound
  /** In words, naming who or what. */
  readonly boundBy: string
}

const LITTLE = 1e-4
/** Memory is the limit if without it the plan were faster by this much. */
const TELLING_GAIN = 0.99
/** So near to its budget, in tokens, the partition stopped because of it. */
const NEAR_TOKENS = 8

export function limitOf(context: Context, timed: Timed): Limit {
  const memory = memoryLimit(context, timed)
  if (memory !== undefined) return { bound: 'memory', boundBy: `memory of ${memory}` }
  const { pipeline, seconds, layout } = timed
  const grown = (links: number, latency: number) =>
    (simulate(pipeline, { links: 1 + links * LITTLE, latency: 1 + latency * LITTLE }).ttftSeconds - seconds) / LITTLE
  const travelling = grown(1, 1)
  const computing = seconds - travelling
  if (computing >= travelling) return { bound: 'compute', boundBy: `${slowest(context, timed)} computes` }
  const onLinks = grown(1, 0)
  const onLatency = travelling - onLinks
  if (onLinks > Math.max(onLatency, computing)) return { bound: 'link', boundBy: busiestLink(context, timed) }
  if (onLatency > computing) return { bound: 'latency', boundBy: `latency of the ${wayOf(layout)}` }
  return { bound: 'compute', boundBy: `${slowest(context, timed)} computes` }
}

const wayOf = ({ strategy, members }: Layout): string =>
  members.length < 2 ? 'hand-off' : strategy === 'ring' ? 'ring' : 'chain'

function slowest({ workers, decode }: Context, { pipeline, layout }: Timed): string {
  const seconds = pipeline.work.map(([layer]) => layer)
  const most = Math.max(0, ...seconds)
  return layout.members.length === 0 || pipeline.tail.layer > most
    ? decode.id
    : workers[layout.members[seconds.indexOf(most)]!]!.id
}

/** The link, or the network card that several links share, that is busy for the longest time of a layer. */
function busiestLink({ workers, decode, network }: Context, { pipeline, layout }: Timed): string {
  const names = layout.members.map((member): string => workers[member]!.id)
  const count = names.length
  const links: Busy[] = []
  const cards = new Map<number, Busy & { links: number }>()
  const add = (transfer: Transfer, from: string, to: string): void => {
    const [, own, relayed, , outSeconds, inSeconds, out, into] = transfer
    const seconds = own + relayed
    if (seconds > 0) links.push({ seconds, words: `link ${from} to ${to}` })
    const share = (card: number, seconds: number, words: string): void => {
      const before = cards.get(card) ?? { seconds: 0, links: 0 }
      cards.set(card, { seconds: before.seconds + seconds, links: before.links + 1, words })
    }
    if (out < 0) return
    share(out, outSeconds, `links from ${from}`)
    share(into, inSeconds, `links to ${to}`)
  }
  names.forEach((name, at) => {
    if (at > 0 || pipeline.ring) add(pipeline.prefix[at]!, names[(at + count - 1) % count]!, name)
    add(pipeline.handoff[at]!, name, decode.id)
  })
  const inward = 2 * network.host[network.size - 1]! + 1
  for (const [card, { seconds, links: sharing, words }] of cards)
    if (sharing > 1) links.push({ seconds, words: card === inward ? `links to ${decode.id}` : words })
  return links.reduce((most, next) => (next.seconds > most.seconds * 1.001 ? next : most)).words
}

interface Busy {
  readonly seconds: number
  readonly words: string
}

/** Who stands at the end of its memory, if the plan were faster with more. */
function memoryLimit(context: Context, { layout, seconds }: Timed): string | undefined {
  const { workers, stateBytes, kvBytes, promptTokens, tailRoom } = context
  const near = NEAR_TOKENS * (stateBytes + 3 * kvBytes)
  const full = layout.members.findIndex((member, at) => {
    const { budgetBytes } = workers[member]!
    return budgetBytes !== undefined && workerBytes(context, layout, at) + near > budgetBytes
  })
  const tailFull = promptTokens - prefillTokens(layout) > Math.max(1, tailRoom - NEAR_TOKENS)
  if (full < 0 && !tailFull) return undefined
  const roomy = {
    ...context,
    workers: workers.map(({ budgetBytes: _, ...worker }) => worker),
    tailRoom: Number.POSITIVE_INFINITY,
  }
  const relaxed = evaluate(roomy, { layout }, false)
  if (relaxed === undefined || relaxed.seconds > TELLING_GAIN * seconds) return undefined
  return full < 0 ? context.decode.id : workers[layout.members[full]!]!.id
}
