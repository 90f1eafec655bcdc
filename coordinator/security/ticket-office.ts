import { randomUUID } from 'node:crypto'
import type { Clock } from '../../shared/clock.ts'
import { type Strategy, sourceRank } from '../../shared/plan.ts'
import type { Command } from '../../shared/protocol/control.ts'
import type { HeldTicket } from '../../shared/protocol/tickets.ts'
import { newTicketKey, signTicket, TICKET_SECONDS, type TicketClaim } from '../../shared/security/ticket.ts'

/** Whom a run may ask for its tickets. */
export type TicketAsk = Omit<TicketClaim, 'cluster' | 'epoch'>

/**
 * Signs tickets. The key is made when the coordinator starts and never stored: workers are told the public half over their
 * own links when they join, so a coordinator that starts anew makes all older tickets worthless.
 */
export class TicketOffice {
  readonly #clock: Clock
  readonly #cluster: string
  readonly #pair = newTicketKey()

  constructor(clock: Clock, cluster: string = randomUUID()) {
    this.#clock = clock
    this.#cluster = cluster
  }

  /** What a worker needs to check tickets: part of `joined`. */
  get rule(): { cluster: string; key: string; at: number } {
    return { cluster: this.#cluster, key: this.#pair.told, at: this.#clock.now() }
  }

  /** @param epoch of the source's membership */
  sign(ask: TicketAsk, epoch = 0): string {
    return signTicket({ ...ask, epoch, cluster: this.#cluster }, this.#clock.now() + TICKET_SECONDS, this.#pair.key)
  }
}

/** Who is in a run, as far as tickets go. */
export interface TicketPlan {
  readonly strategy: Strategy
  readonly workers: readonly { readonly worker: string }[]
  readonly decode: string
}

interface Signer {
  ticket(of: TicketAsk): string
}

export const signFor =
  (run: string, signer: Signer): Sign =>
  (of) =>
    signer.ticket({ run, ...of })

type Sign = (of: Omit<TicketAsk, 'run'>) => string

/** For the worker at `rank`: where its prefix comes from, and the decode node, which has it when the source is lost. */
export function prefillTickets({ strategy, workers, decode }: TicketPlan, rank: number, sign: Sign): HeldTicket[] {
  const target = workers[rank]!.worker
  const from = sourceRank(strategy, rank, workers.length)
  const sources = from === undefined ? [] : [workers[from]!.worker]
  // The decode node may be in the run as a worker too.
  const all = [...new Set([...sources, decode])].filter((source) => source !== target)
  return all.map((source) => ({ source, ticket: sign({ source, target, purpose: 'prefix' }) }))
}

/** For the decode node: everybody hands over to it. */
export const decodeTickets = ({ workers, decode: target }: TicketPlan, sign: Sign): HeldTicket[] =>
  workers.map(({ worker: source }) => ({ source, ticket: sign({ source, target, purpose: 'handoff' }) }))

/** Long before the tickets that a worker has would end. */
const REFRESH_SECONDS = TICKET_SECONDS / 2

/** While a run lasts its prefill workers may need to fetch again, so they always have tickets that are good. */
export async function keepTickets(
  { run, plan, clock, workers }: KeepTicketsOptions,
  signal: AbortSignal,
): Promise<void> {
  while (!signal.aborted) {
    await clock.sleep(REFRESH_SECONDS, signal).catch(() => undefined) // the loop's condition ends it
    if (signal.aborted) return
    for (const [rank, { worker }] of plan.workers.entries())
      workers.send(worker, { kind: 'tickets', run, tickets: prefillTickets(plan, rank, signFor(run, workers)) })
  }
}

interface KeepTicketsOptions {
  readonly run: string
  readonly plan: TicketPlan
  readonly clock: Clock
  readonly workers: Signer & { send(worker: string, command: Command): void }
}
