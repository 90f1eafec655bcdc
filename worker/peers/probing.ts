import type { Clock } from '../../shared/clock.ts'
import { HeadraceError } from '../../shared/errors.ts'
import { DATA_LIMITS, type Link } from '../../shared/link/link.ts'
import { decodeMessage, encodeMessage } from '../../shared/protocol/messages.ts'
import { peerDeliverySchema, peerRequestSchema } from '../../shared/protocol/peer.ts'
import { peerError } from './dialling.ts'
import { framesOf, nextVolume, type Round, tailRate } from './link-rate.ts'

export interface LinkEstimate {
  readonly rttSeconds: number
  readonly bytesPerSecond: number
}

/** Empty frames that go there and back; the least of their times counts, since anything else on the way only adds. */
const ROUND_TRIPS = 5

/**
 * Measures how fast the listener at the other end can send, on a link of which it has the `hello` and nothing else.
 * Holds one frame at a time. Throws what the link ends with, or `cancelled` if the listener has a run to serve.
 */
export async function probeLink(link: Link, clock: Clock): Promise<LinkEstimate> {
  let seq = 0
  const ask = async (frames: readonly number[]): Promise<Round> => {
    const first = seq
    seq += frames.length
    const round = { askedAt: clock.now(), arrivals: [] as { at: number; bytes: number }[] }
    const asked = Promise.all(
      frames.map((bytes, i) => link.send(encodeMessage(peerRequestSchema, { kind: 'probe', seq: first + i, bytes }))),
    )
    const answered = (async () => {
      for (const [i, bytes] of frames.entries()) {
        takeAnswer(await link.receive(), first + i, bytes)
        round.arrivals.push({ at: clock.now(), bytes })
      }
    })()
    await Promise.all([asked, answered])
    return round
  }

  let rttSeconds = Number.POSITIVE_INFINITY
  for (let trip = 0; trip < ROUND_TRIPS; trip++) {
    const { askedAt, arrivals } = await ask([0])
    rttSeconds = Math.min(rttSeconds, arrivals[0]!.at - askedAt)
  }
  const rounds: Round[] = []
  for (;;) {
    const volume = nextVolume(rounds, rttSeconds, clock.now())
    if (volume === undefined) return { rttSeconds, bytesPerSecond: tailRate(rounds.at(-1)!, rttSeconds) }
    rounds.push(await ask(framesOf(volume)))
  }
}

function takeAnswer(frame: Uint8Array<ArrayBuffer> | undefined, seq: number, bytes: number): void {
  if (frame === undefined) throw new HeadraceError('link_closed', 'the peer closed the link')
  const { message, payload } = decodeMessage(peerDeliverySchema, frame, DATA_LIMITS.maxFrameBytes)
  if (message.kind === 'refused') throw peerError(message)
  if (message.kind !== 'probed' || message.seq !== seq)
    throw new HeadraceError('unexpected_message', `${message.kind} instead of the probe's answer`)
  if (payload.byteLength === bytes) return
  if (payload.byteLength === 0) throw new HeadraceError('cancelled', 'the peer has a run to serve')
  throw new HeadraceError('unexpected_message', `${payload.byteLength} bytes instead of ${bytes}`)
}
