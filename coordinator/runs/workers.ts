import type { HeadraceError } from '../../shared/errors.ts'
import type { RunId } from '../../shared/ids.ts'
import type { Command, WorkerEvent } from '../../shared/protocol/control.ts'
import type { TicketAsk } from '../security/ticket-office.ts'

/** The links to the workers, as a run needs them. */
export interface Workers {
  /** Where other workers fetch KV from this one. */
  urlOf(worker: string): string
  /** Which time of joining it is. */
  epochOf(worker: string): number
  send(worker: string, command: Command, payload?: Uint8Array): void
  /** Lets one worker fetch KV of a run from another, for a minute. */
  ticket(of: TicketAsk): string
  /** Whether there is a link to the worker: what is sent to any other is lost. */
  has(worker: string): boolean
  /** From now on `onEvent` gets what workers say about the run, and `onLost` hears of any worker that goes. */
  follow(run: RunId, follower: RunFollower): () => void
}

export interface RunFollower {
  onEvent(worker: string, event: WorkerEvent, payload: Uint8Array): void
  onLost(worker: string, error: HeadraceError): void
}
