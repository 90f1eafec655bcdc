import type { Clock } from '../../shared/clock.ts'
import { abortError, ERRORS, HeadraceError } from '../../shared/errors.ts'
import type { RunEvent } from '../runs/events.ts'
import type { KeyLimits } from './key-file.ts'
import { TokenBucket } from './token-bucket.ts'

/** How often it is looked whether the key of a run is still good. */
const LOOK_SECONDS = 1

/** Whoever asks: a key, or all who come without one where none is needed. Limits of the same kind share a code. */
export class Account {
  readonly id: string
  readonly #clock: Clock
  #limits: KeyLimits
  #requests: TokenBucket | undefined
  #tokens: TokenBucket | undefined
  #queuedTokens = 0
  /** Runs under way. */
  readonly #live = new Set<AbortController>()
  #revoked = false
  readonly #look: () => Promise<void>

  /** @param look finds out whether the account is still to be; called while runs are under way. Never rejects */
  constructor(id: string, limits: KeyLimits, clock: Clock, look: () => Promise<void> = async () => undefined) {
    this.id = id
    this.#clock = clock
    this.#look = look
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
   * before anything of it has begun, and `invalid_api_key` as soon as the account is revoked.
   */
  async *run(
    promptTokens: number,
    begin: (signal: AbortSignal) => AsyncIterable<RunEvent>,
    signal: AbortSignal,
  ): AsyncGenerator<RunEvent, void> {
    if (this.#revoked) throw revoked()
    this.#admit(promptTokens)
    const run = new AbortController()
    const leave = (): void => run.abort(abortError(signal))
    if (signal.aborted) leave()
    signal.addEventListener('abort', leave, { once: true })
    this.#live.add(run)
    const over = new AbortController()
    void this.#watch(over.signal)
    let queued = promptTokens
    this.#queuedTokens += queued
    const leaveQueue = (): void => {
      this.#queuedTokens -= queued
      queued = 0
    }
    try {
      for await (const event of begin(run.signal)) {
        if (event.kind === 'planned') leaveQueue()
        if (event.kind === 'token') this.#tokens?.spend(1, this.#clock.now())
        yield event
      }
    } finally {
      leaveQueue()
      over.abort()
      signal.removeEventListener('abort', leave)
      this.#live.delete(run)
    }
  }

  /** Nobody may ask any more: what is under way ends. */
  revoke(): void {
    this.#revoked = true
    for (const run of this.#live) run.abort(revoked())
  }

  async #watch(over: AbortSignal): Promise<void> {
    while (!over.aborted) {
      await this.#clock.sleep(LOOK_SECONDS, over).catch(() => undefined) // the loop's condition ends it
      if (!over.aborted) await this.#look()
    }
  }

  #admit(promptTokens: number): void {
    const { concurrent, queuedTokens, tokensPerMinute } = this.#limits
    if (concurrent !== undefined && this.#live.size >= concurrent)
      throw limited(`${concurrent} requests at the same time`)
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

const revoked = (): HeadraceError => new HeadraceError('invalid_api_key', ERRORS.invalid_api_key.help)
