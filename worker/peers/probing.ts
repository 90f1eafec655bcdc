import type { Clock } from '../../shared/clock.ts'
import { HeadraceError } from '../../shared/errors.ts'
import { DATA_LIMITS, type Link } from '../../shared/link/link.ts'
import { decodeMessage, encodeMessage } from '../../shared/protocol/messages.ts'
import { peerDeliverySchema, peerRequestSchema } from '../../shared/protocol/peer.ts'
import { peerError } from './dialling.ts'
import { framesOf, isCut, nextVolume, type Round, sustainedRate } from './link-rate.ts'

export interface LinkEstimate {
  readonly rttSeconds: number
  readonly bytesPerSecond: number
}

/** Empty frames that go there and back; the least of their times counts, since anything else on the way only adds. */
const ROUND_TRIPS = 5

/**
 * Measures how fast the listener at the other end can send, on a link of which it has the `hello` and nothing else; more
 * may still be on its way when this is done, so the link is to be closed. Holds one frame at a time, and gives it to `done`.
 * Throws what the link ends with, or `cancelled` if the listener has a run to serve.
 */
export async function probeLink(link: Link, clock: Clock, done: Done = () => undefined): Promise<LinkEstimate> {
  const asking = new Asking(link, clock, done)
  let rttSeconds = Number.POSITIVE_INFINITY
  for (let trip = 0; trip < ROUND_TRIPS; trip++) {
    const { askedAt, arrivals } = await asking.round([0], () => false)
    rttSeconds = Math.min(rttSeconds, arrivals[0]!.at - askedAt)
  }
  const rounds: Round[] = []
  for (;;) {
    const volume = nextVolume(rounds, rttSeconds, clock.now())
    if (volume === undefined) return { rttSeconds, bytesPerSecond: sustainedRate(rounds, rttSeconds) }
    const cut = (round: Round): boolean => isCut(round, rounds[0] ?? round, rttSeconds, clock.now())
    rounds.push(await asking.round(framesOf(volume), cut))
  }
}

/** Takes back the memory of a frame that has been looked at. */
type Done = (frame: Uint8Array) => void

class Asking {
  readonly #link: Link
  readonly #clock: Clock
  readonly #done: Done
  #seq = 0

  constructor(link: Link, clock: Clock, done: Done) {
    this.#link = link
    this.#clock = clock
    this.#done = done
  }

  /** Asks for all the frames at once; resolves when they are there, or `isCut` says that enough are. */
  async round(frames: readonly number[], isCut: (round: Round) => boolean): Promise<Round> {
    const first = this.#seq
    this.#seq += frames.length
    const arrivals: { at: number; bytes: number }[] = []
    const round = { askedAt: this.#clock.now(), arrivals }
    const receiving = async (): Promise<void> => {
      for (const [i, bytes] of frames.entries()) {
        const frame = await this.#link.receive()
        takeAnswer(frame, first + i, bytes)
        if (frame !== undefined) this.#done(frame)
        arrivals.push({ at: this.#clock.now(), bytes })
        if (isCut(round)) return
      }
    }
    await Promise.all([...frames.map((bytes, i) => this.#ask(first + i, bytes)), receiving()])
    return round
  }

  #ask(seq: number, bytes: number): Promise<void> {
    return this.#link.send(encodeMessage(peerRequestSchema, { kind: 'probe', seq, bytes }))
  }
}

function takeAnswer(frame: Uint8Array | undefined, seq: number, bytes: number): void {
  if (frame === undefined) throw new HeadraceError('link_closed', 'the peer closed the link')
  const { message, payload } = decodeMessage(peerDeliverySchema, frame, DATA_LIMITS.maxFrameBytes)
  if (message.kind === 'refused') throw peerError(message)
  if (message.kind !== 'probed' || message.seq !== seq)
    throw new HeadraceError('unexpected_message', `${message.kind} instead of the probe's answer`)
  if (payload.byteLength === bytes) return
  if (payload.byteLength === 0) throw new HeadraceError('cancelled', 'the peer has a run to serve')
  throw new HeadraceError('unexpected_message', `${payload.byteLength} bytes instead of ${bytes}`)
}
