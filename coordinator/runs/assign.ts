import { checkedBlocks } from '../../shared/checked-blocks.ts'
import { isResumed, type Plan, type Span, spanTokens } from '../../shared/plan.ts'
import type { BlockCheck, Command, LayerRange, RunWorker } from '../../shared/protocol/control.ts'
import { cacheOf } from '../../shared/protocol/tickets.ts'
import { cachedTicket, decodeTickets, prefillTickets } from '../security/ticket-office.ts'
import type { RunRequest } from './events.ts'
import { keptName } from './kept-kv.ts'
import { type Part, prefixOf } from './parts.ts'
import type { Workers } from './workers.ts'

/** What each worker is told: everything it needs to know, so that none has to ask back. */

export interface Assigning {
  /** The name of the attempt on the wire. */
  readonly id: string
  readonly plan: Plan
  readonly request: RunRequest
  readonly layers: number
  readonly workers: Workers
  /** Blocks that the decode node is to compute again. */
  readonly checks: readonly BlockCheck[]
}

/** The workers of the plan as they are now. */
export const planWorkers = ({ plan, workers }: Assigning): RunWorker[] =>
  plan.workers.map(({ worker, spans, prefixWire, handoffWire }) => ({
    worker,
    epoch: workers.epochOf(worker),
    url: workers.urlOf(worker),
    spans: [...spans],
    prefixWire,
    handoffWire,
  }))

/** The decode node first: it waits the longest. */
export function assignAll(of: Assigning, makers: readonly RunWorker[]): void {
  const { id, plan, request, layers, workers, checks } = of
  const { promptTokens: tokens } = request
  const name = keptName(request)
  const decoding: Command = {
    kind: 'decode',
    run: id,
    epoch: workers.epochOf(plan.decode),
    workers: [...makers],
    blockTokens: plan.blockTokens,
    prefillTokens: plan.prefillTokens,
    promptTokens: tokens.length,
    maxTokens: request.maxTokens,
    stopTokens: [...request.stopTokens],
    sampling: request.sampling,
    wantLogits: request.wantLogits ?? false,
    checks: [...checks],
    ...(name === undefined ? {} : { keep: { name, resume: isResumed(plan) } }),
    tickets: decodeTickets(
      id,
      makers.map(({ worker }) => worker),
      plan.decode,
      (ask) => workers.ticket(ask),
    ),
  }
  const own = { start: plan.prefillTokens, end: tokens.length } // nothing, if the plan is to resume
  const needed = tokensOf(tokens, [own, ...checkedBlocks(makers, plan.blockTokens, checks)])
  workers.send(plan.decode, decoding, bytesOf(needed))
  for (const rank of makers.keys()) {
    const { strategy } = plan
    sendPrefill(of, { run: id, strategy, rank, workers: [...makers], layers: { from: 0, to: layers } })
  }
}

/**
 * `by` makes up for somebody: first the decode node hears of it, so that it serves what `by` will ask for, and fetches
 * what that makes.
 */
export function assignRepair(of: Assigning, part: string, by: RunWorker, layers: LayerRange): void {
  const { id, plan, workers } = of
  const ticket = workers.ticket({ run: part, source: by.worker, target: plan.decode, purpose: 'handoff' })
  workers.send(plan.decode, { kind: 'repair', run: id, part, by, layers, ticket })
  const spans = prefixOf(plan, by.spans)
  const cache = {
    ...by,
    worker: plan.decode,
    epoch: workers.epochOf(plan.decode),
    url: workers.urlOf(plan.decode),
    spans,
  }
  const [strategy, makers] = spans.length > 0 ? (['chain', [cache, by]] as const) : (['solo', [by]] as const)
  sendPrefill(of, { run: part, strategy, rank: makers.length - 1, workers: [...makers], layers })
}

/** New tickets for the decode node's cache: a worker may turn to it at any time. */
export function refreshTickets({ id, plan, workers }: Assigning, parts: readonly Part[]): void {
  const { decode } = plan
  for (const { id: run, by, state } of parts) {
    if (state !== 'computing') continue
    const cache = run === id && plan.workers[0]?.worker !== decode ? run : cacheOf(run)
    const ticket = cachedTicket({ run: cache, decode, target: by.worker }, (ask) => workers.ticket(ask))
    workers.send(by.worker, { kind: 'tickets', run, tickets: [ticket] })
  }
}

type Prefill = Extract<Command, { kind: 'prefill' }>

function sendPrefill(
  { plan, request, workers }: Assigning,
  own: Pick<Prefill, 'run' | 'strategy' | 'rank' | 'workers' | 'layers'>,
): void {
  const { decode, blockTokens } = plan
  const { worker, spans } = own.workers[own.rank]!
  const { promptTokens: tokens } = request
  const common = { decode, decodeUrl: workers.urlOf(decode), blockTokens, promptTokens: tokens.length }
  const tickets = prefillTickets({ ...own, decode }, (ask) => workers.ticket(ask))
  workers.send(worker, { kind: 'prefill', ...own, ...common, tickets }, bytesOf(tokensOf(tokens, spans)))
}

function tokensOf(tokens: Int32Array, spans: readonly Span[]): Int32Array {
  const own = new Int32Array(spanTokens(spans))
  let at = 0
  for (const { start, end } of spans) {
    own.set(tokens.subarray(start, end), at)
    at += end - start
  }
  return own
}

const bytesOf = ({ buffer, byteOffset, byteLength }: Int32Array): Uint8Array =>
  new Uint8Array(buffer, byteOffset, byteLength)
