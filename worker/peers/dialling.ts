import { setMaxListeners } from 'node:events'
import { abortError, asHeadraceError, HeadraceError, isErrorCode } from '../../shared/errors.ts'
import { DATA_LIMITS, type Dialer, type Link } from '../../shared/link/link.ts'
import type { Log } from '../../shared/log.ts'
import type { Wire } from '../../shared/plan.ts'
import { PROTOCOL_VERSION } from '../../shared/protocol/control.ts'
import { decodeMessage, encodeMessage } from '../../shared/protocol/messages.ts'
import { type KvHeader, type PeerRequest, peerDeliverySchema, peerRequestSchema } from '../../shared/protocol/peer.ts'
import type { Wanted } from '../kv/expected-blocks.ts'
import { packWanted } from '../kv/wanted.ts'

/**
 * The receiving end of KV: dials other workers, one link each, kept and shared by all runs that fetch from there.
 */
export class PeerDialling {
  readonly #of: { dialer: Dialer; worker: string; fingerprint: string; log: Log }
  readonly #peers = new Map<string, Promise<Peer>>()
  /** A link outlives the run that it was dialled for, so no run's end may abort the dialling. */
  readonly #closing = new AbortController()

  constructor(of: { dialer: Dialer; worker: string; fingerprint: string; log: Log }) {
    this.#of = of
    // Each dialling listens while it lasts: a decode node dials all workers of a run at once.
    setMaxListeners(0, this.#closing.signal)
  }

  /** Asks the worker at `url` for its blocks of a run; they come to `receiver` until `end` is called. */
  async subscribe(of: SubscribeOptions, receiver: BlockReceiver, signal: AbortSignal): Promise<Subscription> {
    const peer = await this.#peer(of)
    if (signal.aborted) throw abortError(signal)
    return peer.subscribe(of, receiver)
  }

  close(): void {
    this.#closing.abort(new HeadraceError('shutting_down', 'the worker is leaving'))
    for (const peer of this.#peers.values()) peer.then((p) => p.link.close()).catch(() => undefined) // never dialled
    this.#peers.clear()
  }

  /** From now on links are dialled anew, with the worker's new certificate; runs keep those they have. */
  renewed(): void {
    this.#peers.clear()
  }

  #peer({ url, source }: Pick<SubscribeOptions, 'url' | 'source'>): Promise<Peer> {
    const key = JSON.stringify([url, source])
    const known = this.#peers.get(key)
    if (known) return known
    const dialled = this.#dial(url, source)
    this.#peers.set(key, dialled)
    const forget = (): void => {
      if (this.#peers.get(key) === dialled) this.#peers.delete(key)
    }
    dialled.then((peer) => peer.link.closed.addEventListener('abort', forget), forget)
    return dialled
  }

  async #dial(url: string, source: string): Promise<Peer> {
    const { dialer, worker, fingerprint, log } = this.#of
    const link = await dialer.dial(url, DATA_LIMITS, this.#closing.signal, { worker: source })
    const peer = new Peer(link, log)
    await peer.request({ kind: 'hello', protocol: PROTOCOL_VERSION, worker, fingerprint })
    peer.listen()
    return peer
  }
}

export interface SubscribeOptions {
  readonly run: string
  /** The worker that must answer at `url`. */
  readonly source: string
  readonly url: string
  /** The coordinator's, for this run at `source`. */
  readonly ticket: string
  readonly purpose: 'prefix' | 'handoff' | 'cached'
  /** Blocks of layers below this may be sent. */
  readonly window: number
  /** Of a decode node's cache: which blocks, and in which precision. */
  readonly wanted?: readonly Wanted[]
  readonly wire?: Wire
}

export interface BlockReceiver {
  /** A thrown coded error ends the subscription and comes back through `lost`. `frame` is the whole message. */
  block(header: KvHeader, payload: Uint8Array, frame: Uint8Array): void
  /** No more will come, though not everything has. */
  lost(error: HeadraceError): void
}

export interface Subscription {
  credit(window: number): void
  end(): void
}

class Peer {
  readonly link: Link
  readonly #log: Log
  readonly #receivers = new Map<string, BlockReceiver>()

  constructor(link: Link, log: Log) {
    this.link = link
    this.#log = log
  }

  async subscribe(of: SubscribeOptions, receiver: BlockReceiver): Promise<Subscription> {
    const { run, purpose, window, wanted, wire, ticket } = of
    this.#receivers.set(run, receiver)
    await this.request(
      { kind: 'subscribe', run, purpose, window, ticket, ...(wire && { wire }) },
      wanted && packWanted(wanted),
    )
    return {
      credit: (raised) => this.#post({ kind: 'credit', run, window: raised }),
      end: () => {
        // Another receiver may have taken the place of this one.
        if (this.#receivers.get(run) !== receiver) return
        this.#receivers.delete(run)
        this.#post({ kind: 'unsubscribe', run })
      },
    }
  }

  request(message: PeerRequest, payload?: Uint8Array): Promise<void> {
    return this.link.send(encodeMessage(peerRequestSchema, message, payload))
  }

  /** Delivers what comes to the run it belongs to, until the link closes. */
  listen(): void {
    const end = (error: HeadraceError): void => {
      this.link.close(error)
      for (const receiver of this.#receivers.values()) receiver.lost(error)
      this.#receivers.clear()
    }
    this.#receiveAll().then(
      () => end(new HeadraceError('link_closed', `${this.link.peer} closed the link`)),
      (thrown: unknown) => end(asHeadraceError(thrown, 'link_closed')),
    )
  }

  async #receiveAll(): Promise<void> {
    for (let frame = await this.link.receive(); frame; frame = await this.link.receive()) this.#deliver(frame)
  }

  #deliver(frame: Uint8Array): void {
    const { message, payload } = decodeMessage(peerDeliverySchema, frame, DATA_LIMITS.maxFrameBytes)
    if (message.kind === 'refused') throw peerError(message)
    if (message.kind === 'probed') throw new HeadraceError('unexpected_message', 'the answer to no probe of this link')
    const receiver = this.#receivers.get(message.run)
    if (receiver === undefined) {
      this.#log.debug({ run: message.run, kind: message.kind }, 'a message of a run that is over here')
      return
    }
    try {
      if (message.kind === 'ended') throw peerError(message)
      receiver.block(message, payload, frame)
    } catch (error) {
      this.#receivers.delete(message.run)
      receiver.lost(asHeadraceError(error))
    }
  }

  #post(message: PeerRequest): void {
    // A link that is gone has told its receivers already.
    this.request(message).catch((error: unknown) => this.#log.debug({ err: error }, 'a request to a peer was not sent'))
  }
}

export const peerError = ({ code, message }: { code: string; message: string }): HeadraceError =>
  new HeadraceError(isErrorCode(code) ? code : 'worker_failed', message)
