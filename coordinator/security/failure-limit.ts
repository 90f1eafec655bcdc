/**
 * How often an address may fail to join. Pure but for its own memory; the caller brings the time, in seconds. An IPv6
 * address counts by its /64, since a host has all of that.
 */
export class FailureLimit {
  readonly #failures = new Map<string, { count: number; readonly since: number }>()

  /** Seconds until the address may try again; 0: now. */
  waitSeconds(address: string, now: number): number {
    const known = this.#failures.get(networkOf(address))
    if (known === undefined || known.count < MOST_FAILURES) return 0
    return Math.max(0, Math.ceil(known.since + WINDOW_SECONDS - now))
  }

  failed(address: string, now: number): void {
    const network = networkOf(address)
    const known = this.#failures.get(network)
    if (known !== undefined && now - known.since < WINDOW_SECONDS) {
      known.count++
      return
    }
    this.#failures.delete(network)
    this.#failures.set(network, { count: 1, since: now })
    // Beyond the bound the one whose window began first is forgotten.
    for (const oldest of this.#failures.keys()) {
      if (this.#failures.size <= MOST_ADDRESSES) break
      this.#failures.delete(oldest)
    }
  }
}

const MOST_FAILURES = 10
const WINDOW_SECONDS = 60
const MOST_ADDRESSES = 4096

function networkOf(address: string): string {
  const mapped = /^::ffff:(\d+\.\d+\.\d+\.\d+)$/.exec(address)
  if (mapped !== null) return mapped[1]!
  if (!address.includes(':')) return address
  const [head = '', tail = ''] = address.split('%', 1)[0]!.split('::')
  const left = head === '' ? [] : head.split(':')
  const right = tail === '' ? [] : tail.split(':')
  const groups = [...left, ...Array<string>(Math.max(0, 8 - left.length - right.length)).fill('0'), ...right]
  return groups.slice(0, 4).join(':')
}
