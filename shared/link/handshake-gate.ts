/**
 * Who may open a link here: so many handshakes a second from one address, and so many links that have not said a word, from
 * one address and in all. Pure: the server tells it the time. What it keeps is bounded by what it lets in.
 */
export class HandshakeGate {
  /** Handshakes that an address may still make at once, as of a time; the one that knocked last is last. */
  readonly #buckets = new Map<string, { left: number; at: number }>()
  readonly #silent = new Map<string, number>()
  #silentInAll = 0

  /** Whether a handshake may go on: 429 or 503 if not. After `undefined` the caller owes one `settled`. */
  knock(address: string, now: number): 429 | 503 | undefined {
    if (!this.#takeTurn(address, now)) return 429
    const silent = this.#silent.get(address) ?? 0
    if (silent >= MOST_SILENT_OF_ONE) return 429
    if (this.#silentInAll >= MOST_SILENT) return 503
    this.#silent.set(address, silent + 1)
    this.#silentInAll++
    return undefined
  }

  /** The link has spoken, or is gone. */
  settled(address: string): void {
    const silent = this.#silent.get(address) ?? 0
    if (silent > 1) this.#silent.set(address, silent - 1)
    else this.#silent.delete(address)
    this.#silentInAll--
  }

  #takeTurn(address: string, now: number): boolean {
    const { left, at } = this.#buckets.get(address) ?? { left: BURST, at: now }
    const filled = Math.min(BURST, left + (now - at) * HANDSHAKES_PER_SECOND)
    this.#buckets.delete(address)
    this.#buckets.set(address, { left: Math.max(0, filled - 1), at: now })
    const [oldest] = this.#buckets.keys()
    if (this.#buckets.size > MOST_ADDRESSES && oldest !== undefined) this.#buckets.delete(oldest)
    return filled >= 1
  }
}

/** A cluster of 64 workers behind one address comes and goes within this. */
export const BURST = 256
const HANDSHAKES_PER_SECOND = 32
export const MOST_SILENT_OF_ONE = 64
export const MOST_SILENT = 128
const MOST_ADDRESSES = 4096

/** What counts as one address: of IPv6 a network of 2^64, since one host may have as many. */
export function gateKey(address: string): string {
  const v4 = address.match(/^(?:::ffff:)?(\d+\.\d+\.\d+\.\d+)$/i)?.[1]
  if (v4 !== undefined) return v4
  const [head = '', tail] = address.split('%', 1)[0]!.split('::', 2)
  const [first, last] = [head, tail ?? ''].map((part) => part.split(':').filter((group) => group !== ''))
  const zeros = tail === undefined ? 0 : 8 - first!.length - last!.length
  return [...first!, ...Array.from({ length: Math.max(0, zeros) }, () => '0'), ...last!].slice(0, 4).join(':')
}
