import type { Clock } from '../../shared/clock.ts'
import { abortError, asHeadraceError, HeadraceError } from '../../shared/errors.ts'
import type { BufferPool } from '../../shared/link/buffer-pool.ts'
import { DATA_LIMITS, type Dialer } from '../../shared/link/link.ts'
import type { Log } from '../../shared/log.ts'
import { type MeasuredPeer, PROTOCOL_VERSION } from '../../shared/protocol/control.ts'
import { encodeMessage } from '../../shared/protocol/messages.ts'
import { peerRequestSchema } from '../../shared/protocol/peer.ts'
import { type LinkEstimate, probeLink } from './probing.ts'

export interface LinkMeasuringOptions {
  readonly dialer: Dialer
  readonly worker: string
  readonly fingerprint: string
  readonly clock: Clock
  readonly log: Log
  /** Where `dialer` has its frames from. */
  readonly buffers: Pick<BufferPool, 'give'>
}

export interface PeerAddress {
  readonly worker: string
  readonly url: string
}

/** For one peer, dialling included. A link so slow that it needs longer is none that KV should take. */
const MOST_SECONDS = 15

/**
 * Measures the links on which KV would come here, one after the other, each on a connection of its own: no run's KV ever
 * waits behind a probe, and giving up takes no more than closing it.
 */
export class LinkMeasuring {
  readonly #of: LinkMeasuringOptions
  #current: AbortController | undefined

  constructor(of: LinkMeasuringOptions) {
    this.#of = of
  }

  /** What could be measured before `stop`, or before the next call of this. Never rejects. */
  async measure(peers: readonly PeerAddress[]): Promise<MeasuredPeer[]> {
    this.stop(new HeadraceError('cancelled', 'other links are to be measured'))
    const current = new AbortController()
    this.#current = current
    const links: MeasuredPeer[] = []
    for (const peer of peers) {
      if (current.signal.aborted) break
      try {
        links.push({ from: peer.worker, ...(await this.#probe(peer, current.signal)) })
      } catch (thrown) {
        const { code, message } = asHeadraceError(thrown)
        this.#of.log.info({ peer: peer.worker, code }, `link not measured: ${message}`)
      }
    }
    if (this.#current === current) this.#current = undefined
    return links
  }

  /** A run needs the links, or the worker goes. */
  stop(reason: HeadraceError): void {
    this.#current?.abort(reason)
  }

  async #probe({ url, worker: source }: PeerAddress, stopped: AbortSignal): Promise<LinkEstimate> {
    const { dialer, worker, fingerprint, clock, buffers } = this.#of
    const given = new AbortController()
    const giveUp = (): void => given.abort(abortError(stopped))
    stopped.addEventListener('abort', giveUp, { once: true })
    clock
      .sleep(MOST_SECONDS, given.signal)
      .then(() => given.abort(new HeadraceError('dial_failed', `not measured within ${MOST_SECONDS} s`)))
      .catch(() => undefined) // over in time
    try {
      const link = await dialer.dial(url, DATA_LIMITS, given.signal, { worker: source })
      given.signal.addEventListener('abort', () => link.close(), { once: true })
      try {
        if (given.signal.aborted) throw abortError(given.signal)
        const hello = { kind: 'hello', protocol: PROTOCOL_VERSION, worker, fingerprint } as const
        await link.send(encodeMessage(peerRequestSchema, hello))
        return await probeLink(link, clock, (frame) => buffers.give(frame))
      } finally {
        link.close()
      }
    } catch (thrown) {
      throw given.signal.aborted ? abortError(given.signal) : thrown
    } finally {
      stopped.removeEventListener('abort', giveUp)
      given.abort()
    }
  }
}
