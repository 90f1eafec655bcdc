import type { KeyObject } from 'node:crypto'
import type { Clock } from '../../shared/clock.ts'
import { HeadraceError } from '../../shared/errors.ts'
import type { TicketRule } from '../../shared/protocol/tickets.ts'
import { checkTicket, type TicketClaim, ticketKeyOf } from '../../shared/security/ticket.ts'

/** Checks the tickets that others show here, by the rule of the coordinator that this worker has joined last. */
export class TicketBook {
  readonly #worker: string
  readonly #clock: Clock
  #rule:
    | { readonly cluster: string; readonly epoch: number; readonly key: KeyObject; readonly ahead: number }
    | undefined

  constructor(worker: string, clock: Clock) {
    this.#worker = worker
    this.#clock = clock
  }

  /** `epoch`: of this worker's membership. */
  learn({ cluster, key, at }: TicketRule, epoch: number): void {
    // Both clocks are monotonic and run alike, so one difference tells the coordinator's time from then on.
    this.#rule = { cluster, epoch, key: ticketKeyOf(key), ahead: at - this.#clock.now() }
  }

  /** @throws `ticket_refused` unless the coordinator lets `target` have this of the run from here, now */
  check(ticket: string, { run, target, purpose }: Pick<TicketClaim, 'run' | 'target' | 'purpose'>): void {
    const rule = this.#rule
    if (rule === undefined) throw new HeadraceError('ticket_refused', 'this worker has not joined yet')
    const { cluster, epoch, key, ahead } = rule
    checkTicket(ticket, { cluster, run, source: this.#worker, epoch, target, purpose }, this.#clock.now() + ahead, key)
  }
}
