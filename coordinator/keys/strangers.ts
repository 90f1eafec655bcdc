import { isIPv6 } from 'node:net'
import type { Clock } from '../../shared/clock.ts'
import { HeadraceError } from '../../shared/errors.ts'
import { TokenBucket } from './token-bucket.ts'

/** Addresses that are told apart; those beyond share one bucket. */
const MOST_ADDRESSES = 4096
/** Looking through all of them is not for every request of a flood. */
const FORGET_SECONDS = 1

/**
 * How often an address may ask without a key that opens. Only such requests count: keys cost a hash to check, and a good
 * one must not be shut out by a neighbour behind the same proxy. Nothing that a stranger sends can push out the bucket of
 * another: the table forgets only those that are full again, which are as good as new.
 */
export class Strangers {
  readonly #perMinute: number
  readonly #clock: Clock
  readonly #buckets = new Map<string, TokenBucket>()
  readonly #rest: TokenBucket
  #forgotAt = Number.NEGATIVE_INFINITY

  constructor(perMinute: number, clock: Clock) {
    this.#perMinute = perMinute
    this.#clock = clock
    this.#rest = new TokenBucket(perMinute, clock.now())
  }

  /** Counts a request. Throws `rate_limit_exceeded`. */
  request(address: string): void {
    const wait = this.#bucket(networkOf(address)).take(1, this.#clock.now())
    if (wait > 0)
      throw new HeadraceError(
        'rate_limit_exceeded',
        `the limit of this address is reached: ${this.#perMinute} requests a minute without an API key`,
        { details: { retryAfterSeconds: Math.ceil(wait) } },
      )
  }

  get known(): number {
    return this.#buckets.size
  }

  #bucket(network: string): TokenBucket {
    const known = this.#buckets.get(network)
    if (known !== undefined) return known
    if (this.#buckets.size >= MOST_ADDRESSES) this.#forget()
    if (this.#buckets.size >= MOST_ADDRESSES) return this.#rest
    const bucket = new TokenBucket(this.#perMinute, this.#clock.now())
    this.#buckets.set(network, bucket)
    return bucket
  }

  #forget(): void {
    const now = this.#clock.now()
    if (now - this.#forgotAt < FORGET_SECONDS) return
    this.#forgotAt = now
    for (const [network, bucket] of this.#buckets) if (bucket.isFull(now)) this.#buckets.delete(network)
  }
}

/** Who has an IPv6 address has 2^64 of them: the first half names the network. */
function networkOf(address: string): string {
  const mapped = /^::ffff:(\d+\.\d+\.\d+\.\d+)$/i.exec(address)?.[1]
  if (mapped !== undefined) return mapped
  return isIPv6(address) ? firstHalf(address) : address
}

function firstHalf(address: string): string {
  const [front = '', back] = address.split('%', 1)[0]!.split('::')
  const head = front === '' ? [] : front.split(':')
  const tail = back === undefined || back === '' ? [] : back.split(':')
  const zeros = back === undefined ? 0 : 8 - head.length - tail.length
  return [...head, ...Array<string>(Math.max(0, zeros)).fill('0'), ...tail]
    .slice(0, 4)
    .map((group) => Number.parseInt(group, 16).toString(16))
    .join(':')
}
