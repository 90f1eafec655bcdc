import { z } from 'zod'
import { MOST_TICKET_LENGTH } from '../security/ticket.ts'

/** Tickets as messages carry them. */
export const ticketSchema = z.string().min(1).max(MOST_TICKET_LENGTH)

/** The receiver may subscribe at `source` with it. */
const heldTicket = z.strictObject({ source: z.string().min(1).max(64), ticket: ticketSchema })
export type HeldTicket = Readonly<z.infer<typeof heldTicket>>
export const heldTicketsSchema = z.array(heldTicket).max(65)

/** How to check tickets: part of `joined`. `at`: the coordinator's monotonic clock as it tells. */
export const ticketRuleSchema = z.strictObject({
  cluster: z.string().min(1).max(64),
  key: z.string().length(43),
  at: z.number().min(0),
})
export type TicketRule = Readonly<z.infer<typeof ticketRuleSchema>>

/** What a decode node calls its cache where it serves those who make up for others as `part`. */
export const cacheOf = (part: string): string => `${part}+`
