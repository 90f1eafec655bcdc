import type { HeadraceError } from '../errors.ts'
import type { Certified } from '../security/identity.ts'
import type { Expected } from '../security/membership.ts'
import type { Patience } from './link-watchdog.ts'

/**
 * One connection that carries whole frames in order, whatever lies underneath (`ws`, or memory in tests).
 *
 * - `send` resolves when the bytes are handed over to the operating system and rejects with `link_closed` if the link
 *   closes first. The frame may be reused after it resolves, not before.
 * - `receive` resolves to the next frame, or to `undefined` once the link has closed in good order; it rejects with the
 *   coded error the link died of. At most one `receive` is pending. Frames wait in a bounded queue; when it is full the
 *   socket is paused, so that the sender feels it.
 * - `close` is final and may be called more than once; the first reason counts.
 */
export interface Link {
  /** The peer, for logs: an address or a name. */
  readonly peer: string
  /** Who is at the other end, proven by a certificate; absent on links without TLS. */
  readonly identity?: Certified
  /** Aborted, with the coded reason, once the link is closed from either side. */
  readonly closed: AbortSignal
  send(frame: Uint8Array): Promise<void>
  receive(signal?: AbortSignal): Promise<Uint8Array | undefined>
  close(reason?: HeadraceError): void
}

/** What a link may carry. A frame above `maxFrameBytes` closes the link with `frame_oversized`. */
export interface LinkLimits {
  readonly maxFrameBytes: number
  /** The same for what comes, where the two differ. */
  readonly maxReceivedBytes?: number
  /** Received frames that may wait to be taken before the socket is paused. */
  readonly maxQueuedFrames: number
  /** And their bytes together, where that many of the largest would be too much. */
  readonly maxQueuedBytes?: number
  readonly patience?: Patience
}

/** Opens links: the agent and the peers dial through this, so that tests and simulations bring their own network. */
export interface Dialer {
  /** `expected`: who must answer, where links have TLS. Default: the coordinator. */
  dial(url: string, limits: LinkLimits, signal: AbortSignal, expected?: Expected): Promise<Link>
}

/** Control links carry small messages and token ids: 4 MiB holds the ids of a prompt of a million tokens. */
export const CONTROL_LIMITS: LinkLimits = {
  maxFrameBytes: 4 * 2 ** 20 + 2 ** 17,
  maxQueuedFrames: 1024,
  maxQueuedBytes: 16 * 2 ** 20,
}

/** What workers say on them is shorter: the most is the logits of one position, of a vocabulary of half a million. */
export const COORDINATOR_LIMITS: LinkLimits = { ...CONTROL_LIMITS, maxReceivedBytes: 2 * 2 ** 20 + 2 ** 17 }

/** Data links carry KV blocks; the planner picks `blockTokens` so that a block fits. */
export const MAX_BLOCK_BYTES = 8 * 2 ** 20
export const DATA_LIMITS: LinkLimits = { maxFrameBytes: MAX_BLOCK_BYTES + 2 ** 17, maxQueuedFrames: 16 }

/** Whoever dials for KV asks: in a few words, or with the list of the blocks that it wants. */
export const SERVING_LIMITS: LinkLimits = { ...DATA_LIMITS, maxReceivedBytes: 2 ** 20 + 2 ** 17 }
