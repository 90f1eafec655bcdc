import type { Clock } from '../../shared/clock.ts'
import { asHeadraceError, HeadraceError, isErrorCode } from '../../shared/errors.ts'
import { CONTROL_LIMITS, type Dialer, type Link } from '../../shared/link/link.ts'
import type { Log } from '../../shared/log.ts'
import { PieceSet } from '../../shared/model-store/piece-set.ts'
import { type Command, commandSchema, eventSchema, type Fetching } from '../../shared/protocol/control.ts'
import { decodeMessage, encodeMessage } from '../../shared/protocol/messages.ts'

/** How often the coordinator is told what is here, and tells what is elsewhere. */
const TELL_SECONDS = 0.1
const RETRY_SECONDS = 1

interface Peer {
  readonly url: string
  /** Absent: all. */
  readonly have: PieceSet | undefined
}

export interface AnnounceDeps {
  readonly coordinatorUrl: string
  readonly identity: Omit<Fetching, 'kind' | 'pieces'>
  readonly have: PieceSet
  readonly onPeers: (peers: Peer[]) => void
  readonly dialer: Dialer
  readonly clock: Clock
  readonly log: Log
}

/**
 * While a model is on its way: tells the coordinator which pieces are here, so that other newcomers find them, and learns
 * where else there are some. Resolves when `signal` is aborted. A link that breaks is dialled again: the download can do
 * without it. Rejects only if the coordinator does not want this worker.
 */
export async function announce(of: AnnounceDeps, signal: AbortSignal): Promise<void> {
  while (!signal.aborted)
    try {
      await tell(of, await of.dialer.dial(of.coordinatorUrl, CONTROL_LIMITS, signal), signal)
    } catch (thrown) {
      const error = asHeadraceError(thrown)
      if (signal.aborted) return
      if (error.code === 'protocol_mismatch' || error.code === 'identity_revoked') throw error
      of.log.debug({ code: error.code }, `not announced: ${error.message}`)
      await of.clock.sleep(RETRY_SECONDS, signal).catch(() => undefined) // the loop's condition ends it
    }
}

async function tell({ identity, have, onPeers, clock }: AnnounceDeps, link: Link, signal: AbortSignal): Promise<void> {
  try {
    while (!signal.aborted) {
      const message: Fetching = { kind: 'fetching', ...identity, pieces: have.length }
      await link.send(encodeMessage(eventSchema, message, have.bytes))
      const frame = await link.receive(signal)
      if (frame === undefined) throw new HeadraceError('link_closed', 'the coordinator closed the link')
      const { message: answer, payload } = decodeMessage(commandSchema, frame, CONTROL_LIMITS.maxFrameBytes)
      onPeers(peersOf(answer, payload, have.length))
      await clock.sleep(TELL_SECONDS, signal)
    }
  } finally {
    link.close()
  }
}

function peersOf(answer: Command, payload: Uint8Array, pieces: number): Peer[] {
  if (answer.kind === 'refused')
    throw new HeadraceError(isErrorCode(answer.code) ? answer.code : 'internal', answer.message)
  if (answer.kind !== 'sources') throw new HeadraceError('unexpected_message', `${answer.kind} before join`)
  const bytes = Math.ceil(pieces / 8)
  const partial = answer.sources.filter(({ whole }) => !whole)
  if (payload.length !== partial.length * bytes)
    throw new HeadraceError('frame_bad_schema', 'the sources do not fit the pieces')
  const bitsOf = (at: number): PieceSet => new PieceSet(pieces, payload.subarray(at * bytes, (at + 1) * bytes))
  const told = new Map(partial.map(({ url }, i) => [url, bitsOf(i)]))
  return answer.sources.flatMap(({ url, whole }): Peer[] => {
    const base = httpBase(url)
    return base === undefined ? [] : [{ url: base, have: whole ? undefined : told.get(url) }]
  })
}

/** `ws://host:port/link`, where a worker or the coordinator takes links, to where it gives files away. */
export function httpBase(url: string): string | undefined {
  const parsed = URL.canParse(url) ? new URL(url) : undefined
  if (parsed?.protocol === 'ws:') return `http://${parsed.host}`
  return parsed?.protocol === 'wss:' ? `https://${parsed.host}` : undefined
}
