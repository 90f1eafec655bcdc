import { once } from 'node:events'
import { type AddressInfo, createServer, connect as dial, type Server, type Socket } from 'node:net'
import type { Direction } from './faults.ts'

/** A TCP connection's two ends, as the proxy holds them: `near` came here, `far` goes to the target. */
interface Pair {
  readonly near: Socket
  readonly far: Socket
}

/** What makes a piece of bytes another one, of the same length. */
export type Damage = (piece: Buffer) => Buffer

/** A TCP proxy before one port, which breaks what passes when it is told to. */
export class FaultyProxy {
  readonly #server: Server
  readonly #pairs = new Set<Pair>()
  readonly #stalled = new Set<Direction>()
  readonly #damage = new Map<Direction, { damage: Damage; done: () => void }>()

  private constructor(server: Server) {
    this.#server = server
  }

  /** Listens on a free port of `host`; `target` is asked for at each connection, so it may be known later. */
  static async open(host: string, target: () => { host: string; port: number }): Promise<FaultyProxy> {
    const server = createServer({ allowHalfOpen: true, noDelay: true })
    const proxy = new FaultyProxy(server)
    server.on('connection', (near) => proxy.#connect(near, target()))
    server.listen(0, host)
    await once(server, 'listening')
    return proxy
  }

  get port(): number {
    return (this.#server.address() as AddressInfo).port
  }

  get connections(): number {
    return this.#pairs.size
  }

  /** Resets every connection at both ends. */
  cut(): void {
    for (const pair of this.#pairs) reset(pair)
  }

  /** Bytes of this direction wait where they are, also those of connections that are made meanwhile. */
  stall(direction: Direction): void {
    this.#stalled.add(direction)
    for (const pair of this.#pairs) source(pair, direction).pause()
  }

  resume(direction: Direction): void {
    this.#stalled.delete(direction)
    for (const pair of this.#pairs) source(pair, direction).resume()
  }

  /** Damages the next piece that passes. `false`: none had passed when the signal was aborted, and none will be damaged. */
  damageNext(direction: Direction, damage: Damage, signal: AbortSignal): Promise<boolean> {
    return new Promise((resolve) => {
      const leave = (): void => {
        this.#damage.delete(direction)
        resolve(false)
      }
      signal.addEventListener('abort', leave, { once: true })
      const done = (): void => {
        signal.removeEventListener('abort', leave)
        this.#damage.delete(direction)
        resolve(true)
      }
      this.#damage.set(direction, { damage, done })
    })
  }

  async close(): Promise<void> {
    this.cut()
    this.#server.close()
    await once(this.#server, 'close')
  }

  #connect(near: Socket, target: { host: string; port: number }): void {
    const far = dial({ ...target, allowHalfOpen: true, noDelay: true })
    const pair = { near, far }
    this.#pairs.add(pair)
    for (const socket of [near, far]) {
      // Whoever breaks a connection breaks both halves.
      socket.on('error', () => reset(pair))
      socket.on('close', () => {
        if (near.destroyed && far.destroyed) this.#pairs.delete(pair)
        else if (socket.errored || !socket.readableEnded) reset(pair)
      })
    }
    this.#carry(near, far, 'in')
    this.#carry(far, near, 'out')
  }

  #carry(from: Socket, to: Socket, direction: Direction): void {
    if (this.#stalled.has(direction)) from.pause()
    from.on('data', (piece) => {
      const armed = this.#damage.get(direction)
      armed?.done()
      if (!to.write(armed === undefined ? piece : armed.damage(piece))) from.pause()
    })
    to.on('drain', () => {
      if (!this.#stalled.has(direction)) from.resume()
    })
    from.on('end', () => to.end())
  }
}

const source = ({ near, far }: Pair, direction: Direction): Socket => (direction === 'in' ? near : far)

function reset({ near, far }: Pair): void {
  for (const socket of [near, far]) {
    // A socket whose end is on its way cannot be reset: Node 20 would neither close it nor let the process end.
    if (socket.writableEnded) socket.destroy()
    else socket.resetAndDestroy()
  }
}
