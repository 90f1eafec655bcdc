import type { Clock } from '../../shared/clock.ts'
import { HeadraceError } from '../../shared/errors.ts'
import type { RunEvent } from '../runs/events.ts'
import type { KeyLimits } from './key-file.ts'
import { TokenBucket } from './token-bucket.ts'

/** Whoever asks: a key, or all who come without one where none is needed. Limits of the same kind share a code. */
export class Account {
  readonly id: string
  readonly #clock: Clock
  #limits: KeyLimits
  #requests: TokenBucket | undefined
  #tokens: TokenBucket | undefined
  #queuedTokens = 0
  #live = 0

  constructor(id: string, limits: KeyLimits, clock: Clock) {
    this.id = id
    this.#clock = clock
    this.#limits = limits
    this.limit(limits)
  }

  /** New limits. A bucket whose rate stays keeps what is left in it. */
  limit(limits: KeyLimits): void {
    this.#limits = limits
    this.#requests = this.#bucket(this.#requests, limits.requestsPerMinute)
    this.#tokens = this.#bucket(this.#tokens, limits.tokensPerMinute)
  }

  /** Counts a request. Throws `rate_limit_exceeded`. */
  request(): void {
    const { requestsPerMinute } = this.#limits
    const wait = this.#requests?.take(1, this.#clock.now()) ?? 0
    if (wait > 0) throw limited(`${requestsPerMinute} requests a minute`, wait)
  }

  /**
   * A run on this account's bill: its prompt when it begins, its answer token by token. Throws `rate_limit_exceeded`
   * before anything of it has begun.
   */
  async *run(promptTokens: number, events: AsyncIterable<RunEvent>): AsyncGenerator<RunEvent, void> {
    this.#admit(promptTokens)
    this.#live += 1
    let queued = promptTokens
    this.#queuedTokens += queued
    const leaveQueue = (): void => {
      this.#queuedTokens -= queued
      queued = 0
    }
    try {
      for await (const event of events) {
        if (event.kind === 'planned') leaveQueue()
        if (event.kind === 'token') this.#tokens?.spend(1, this.#clock.now())
        yield event
      }
    } finally {
      leaveQueue()
      this.#live -= 1
    }
  }

  #admit(promptTokens: number): void {
    const { concurrent, queuedTokens, tokensPerMinute } = this.#limits
    if (concurrent !== undefined && this.#live >= concurrent) throw limited(`${concurrent} requests at the same time`)
    // One prompt of any length may wait, or some could never be asked.
    if (queuedTokens !== undefined && this.#queuedTokens > 0 && this.#queuedTokens + promptTokens > queuedTokens)
      throw limited(`${queuedTokens} prompt tokens waiting`)
    const wait = this.#tokens?.take(promptTokens, this.#clock.now()) ?? 0
    if (wait > 0) throw limited(`${tokensPerMinute} tokens a minute`, wait)
  }

  #bucket(old: TokenBucket | undefined, perMinute: number | undefined): TokenBucket | undefined {
    if (perMinute === undefined || old?.perMinute === perMinute) return perMinute === undefined ? undefined : old
    return new TokenBucket(perMinute, this.#clock.now())
  }
}

/** When the limit says nothing of time: as long as a person waits. */
const RETRY_SECONDS = 5

function limited(what: string, seconds = RETRY_SECONDS): HeadraceError {
  return new HeadraceError('rate_limit_exceeded', `the limit of this API key is reached: ${what}`, {
    details: { retryAfterSeconds: Math.max(1, Math.ceil(seconds)) },
  })
}
