/**
 * A rate with room for a burst of one minute's worth. What costs more than the bucket holds passes when the bucket is
 * full, and leaves a debt: a long prompt is slowed down, not locked out. Pure but for its own level; time comes from outside.
 */
export class TokenBucket {
  readonly perMinute: number
  #level: number
  #at: number

  constructor(perMinute: number, now: number) {
    this.perMinute = perMinute
    this.#level = perMinute
    this.#at = now
  }

  /** Takes `cost` and says 0, or leaves it and says how many seconds it would have to wait. */
  take(cost: number, now: number): number {
    this.#refill(now)
    const missing = Math.min(cost, this.perMinute) - this.#level
    if (missing > 0) return (missing * 60) / this.perMinute
    this.#level -= cost
    return 0
  }

  /** Takes what is spent already, into debt if need be. */
  spend(cost: number, now: number): void {
    this.#refill(now)
    this.#level -= cost
  }

  /** Whether it is as good as new. */
  isFull(now: number): boolean {
    this.#refill(now)
    return this.#level >= this.perMinute
  }

  #refill(now: number): void {
    this.#level = Math.min(this.perMinute, this.#level + ((now - this.#at) * this.perMinute) / 60)
    this.#at = now
  }
}
