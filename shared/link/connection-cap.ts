import type { Server } from 'node:net'
import { gateKey } from './handshake-gate.ts'

/** Why a listener has sent somebody away before a word was understood: the labels of a counter, so a closed list. */
export const REFUSALS = ['connections', 'address', 'tls', 'certificate', 'handshakes', 'links'] as const
export type Refusal = (typeof REFUSALS)[number]

/**
 * Of one address at the same time, whatever they carry and however far they have come. A reverse proxy is one address too,
 * so this is far above what one client needs, and below what a listener takes in all.
 */
const MOST_CONNECTIONS_OF_ONE = 256

export interface CapOptions {
  readonly most?: number
  /** Whose connections are not counted. Default: this machine's, whose users have other ways to use it up. */
  readonly exempt?: (address: string) => boolean
}

/** Bounds how many connections of `server` one address may hold, from before its TLS handshake to the end of its socket. */
export function capConnections(server: Server, onRefused: (reason: Refusal) => void, of: CapOptions = {}): void {
  const { most = MOST_CONNECTIONS_OF_ONE, exempt = isLoopback } = of
  const held = new Map<string, number>()
  server.on('connection', (socket) => {
    const { remoteAddress = '' } = socket
    if (exempt(remoteAddress)) return
    const address = gateKey(remoteAddress)
    const count = held.get(address) ?? 0
    if (count >= most) {
      onRefused('address')
      socket.destroy()
      return
    }
    held.set(address, count + 1)
    socket.once('close', () => {
      const left = held.get(address)! - 1
      if (left > 0) held.set(address, left)
      else held.delete(address)
    })
  })
  // Those beyond the listener's own bound never become connections.
  server.on('drop', () => onRefused('connections'))
}

/** As the socket has it: what headers say of addresses is the client's word. */
export const isLoopback = (address = ''): boolean => /^(::1|(::ffff:)?127(\.\d{1,3}){3})$/i.test(address)
