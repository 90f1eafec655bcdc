import { randomUUID } from 'node:crypto'
import type { Clock } from '../../shared/clock.ts'
import { type Strategy, sourceRank } from '../../shared/plan.ts'
import { cacheOf, type HeldTicket } from '../../shared/protocol/tickets.ts'
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
  sign(ask: TicketAsk, epoch: number): string {
    return signTicket({ ...ask, epoch, cluster: this.#cluster }, this.#clock.now() + TICKET_SECONDS, this.#pair.key)
  }
}

/** A worker's place in a run, or in what makes up for another's part of it. */
export interface TicketPlace {
  /** Its name on the wire. */
  readonly run: string
  readonly strategy: Strategy
  readonly rank: number
  readonly workers: readonly { readonly worker: string }[]
  readonly decode: string
}

type Sign = (of: TicketAsk) => string

/** Where a prefill worker fetches: from the one before it, and from the decode node what does not come from there. */
export function prefillTickets({ run, strategy, rank, workers, decode }: TicketPlace, sign: Sign): HeldTicket[] {
  const from = sourceRank(strategy, rank, workers.length)
  if (from === undefined) return []
  const [source, target] = [workers[from]!.worker, workers[rank]!.worker]
  const cached = cachedTicket({ run: workers[0]!.worker === decode ? cacheOf(run) : run, decode, target }, sign)
  return source === decode ? [cached] : [{ source, ticket: sign({ run, source, target, purpose: 'prefix' }) }, cached]
}

/** The decode node's cache under the name `run`, for one worker. */
export const cachedTicket = (of: { run: string; decode: string; target: string }, sign: Sign): HeldTicket => {
  const { run, decode: source, target } = of
  return { source, ticket: sign({ run, source, target, purpose: 'cached' }) }
}

/** For the decode node: everybody hands over to it. */
export const decodeTickets = (run: string, sources: readonly string[], target: string, sign: Sign): HeldTicket[] =>
  sources.map((source) => ({ source, ticket: sign({ run, source, target, purpose: 'handoff' }) }))

/** Long before the tickets that a worker has would end. */
const REFRESH_SECONDS = TICKET_SECONDS / 2

/** While a run lasts its workers may need to fetch again, so they always have tickets that are good. */
export async function keepTickets(refresh: () => void, clock: Clock, signal: AbortSignal): Promise<void> {
  while (!signal.aborted) {
    await clock.sleep(REFRESH_SECONDS, signal).catch(() => undefined) // the loop's condition ends it
    if (!signal.aborted) refresh()
  }
}
