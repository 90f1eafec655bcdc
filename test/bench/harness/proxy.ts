import { once } from 'node:events'
import { createServer, connect as dial, type Server, type Socket } from 'node:net'
import { DelayLine, Pace } from './delay-line.ts'

/**
 * A host's way in and out as a TCP proxy: every byte to and from what listens there arrives later, and where a rate is
 * given, no faster. It ends TCP's own connection, so slow start and windows do not see the delay: what it imitates is a
 * link whose windows are open.
 */
export interface ProxyRoute {
  readonly listen: Endpoint
  readonly target: Endpoint
  readonly delaySeconds: number
  /** In each direction, of all connections of the route together. */
  readonly bytesPerSecond?: number
}

export interface Endpoint {
  readonly host: string
  readonly port: number
}

/** More than 1 Gbit/s carries in 100 ms. A sender that has so much on its way waits. */
const MOST_HELD_BYTES = 16 * 2 ** 20

export async function startProxy({ listen, target, delaySeconds, bytesPerSecond }: ProxyRoute): Promise<Server> {
  const pace = (): Pace | undefined => (bytesPerSecond === undefined ? undefined : new Pace(bytesPerSecond))
  const [inward, outward] = [pace(), pace()]
  const server = createServer({ allowHalfOpen: true, noDelay: true }, (near) => {
    const far = dial({ ...target, allowHalfOpen: true, noDelay: true })
    for (const [one, other] of [
      [near, far],
      [far, near],
    ] as const) {
      // Whoever breaks a connection breaks both halves, as a broken link does.
      one.on('error', () => other.destroy())
      one.on('close', () => {
        if (one.errored || !one.readableEnded) other.destroy()
      })
    }
    carry(near, far, new DelayLine(delaySeconds, inward))
    carry(far, near, new DelayLine(delaySeconds, outward))
  })
  server.listen(listen.port, listen.host)
  await once(server, 'listening')
  return server
}

function carry(from: Socket, to: Socket, line: DelayLine): void {
  const now = (): number => performance.now() / 1000
  let timer: NodeJS.Timeout | undefined
  let ended = false
  const flush = (): void => {
    timer = undefined
    const { due, next } = line.take(now())
    for (const piece of due) to.write(piece)
    if (line.heldBytes < MOST_HELD_BYTES && !to.writableNeedDrain) from.resume()
    if (next !== undefined) timer = setTimeout(flush, Math.max(0, (next - now()) * 1000))
    else if (ended) to.end()
  }
  from.on('data', (piece) => {
    line.push(piece, now())
    if (line.heldBytes >= MOST_HELD_BYTES || to.writableNeedDrain) from.pause()
    timer ??= setTimeout(flush, 0)
  })
  from.on('end', () => {
    ended = true
    timer ??= setTimeout(flush, 0)
  })
  to.on('drain', () => from.resume())
  to.on('close', () => clearTimeout(timer))
}
