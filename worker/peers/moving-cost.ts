import { availableParallelism } from 'node:os'
import type { Clock } from '../../shared/clock.ts'
import { HeadraceError } from '../../shared/errors.ts'
import { DATA_LIMITS, type Link, MAX_BLOCK_BYTES } from '../../shared/link/link.ts'
import { PATIENCE } from '../../shared/link/link-watchdog.ts'
import { wsDialer } from '../../shared/link/ws-link.ts'
import { listenLinks } from '../../shared/link/ws-server.ts'
import { kvBytesPerTokenLayer, type ModelShape } from '../../shared/model-shape.ts'
import { decodeMessage, encodeMessage } from '../../shared/protocol/messages.ts'
import { peerDeliverySchema } from '../../shared/protocol/peer.ts'

/** As the planner cuts them, mostly. */
const BLOCK_TOKENS = 512
const BLOCKS = 8
const ROUNDS = 5
const PATH = '/loopback'
/** Whoever dials here has nothing to say. */
const LOOPBACK_LIMITS = { ...DATA_LIMITS, patience: { ...PATIENCE, firstFrameSeconds: Number.POSITIVE_INFINITY } }

/**
 * Seconds that sockets will take from arithmetic for each token whose K and V of a layer enter or leave, as far as that can
 * be known before any run: nothing where they have a core of their own, else what it takes at each end of a loopback.
 */
export async function movingCost(clock: Clock, of: { threads: number; shape: ModelShape }): Promise<number> {
  if (availableParallelism() > of.threads) return 0
  let arrived: (link: Link) => void = () => undefined
  const receiving = new Promise<Link>((resolve) => {
    arrived = resolve
  })
  const server = await listenLinks({ host: '127.0.0.1', port: 0, path: PATH, limits: LOOPBACK_LIMITS, onLink: arrived })
  try {
    const receiver = await wsDialer.dial(server.url, DATA_LIMITS, new AbortController().signal)
    const bytes = Math.min(BLOCK_TOKENS * kvBytesPerTokenLayer(of.shape), MAX_BLOCK_BYTES)
    const seconds = await leastSeconds(await receiving, receiver, { clock, block: new Uint8Array(bytes) })
    return (seconds * kvBytesPerTokenLayer(of.shape)) / bytes
  } finally {
    await server.close()
  }
}

/** Of a block, at one end. Another program only ever adds time: the least counts. The first round warms up. */
async function leastSeconds(sender: Link, receiver: Link, of: { clock: Clock; block: Uint8Array }): Promise<number> {
  const { clock, block } = of
  let least = Number.POSITIVE_INFINITY
  for (let round = 0; round < ROUNDS; round++) {
    const started = clock.now()
    await Promise.all([send(sender, block), receive(receiver)])
    least = Math.min(least, clock.now() - started)
  }
  return least / BLOCKS / 2
}

async function send(link: Link, block: Uint8Array): Promise<void> {
  for (let seq = 0; seq < BLOCKS; seq++)
    await link.send(encodeMessage(peerDeliverySchema, { kind: 'probed', seq }, block))
}

async function receive(link: Link): Promise<void> {
  for (let seq = 0; seq < BLOCKS; seq++) {
    const frame = await link.receive()
    if (frame === undefined) throw new HeadraceError('link_closed', 'the loopback ended early')
    decodeMessage(peerDeliverySchema, frame, DATA_LIMITS.maxFrameBytes)
  }
}
