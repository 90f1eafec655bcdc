/**
 * Time and chance as arguments. Control logic never touches the global clock or `Math.random`, so that the same code
 * runs under a virtual clock and a seeded generator.
 */
export interface Clock {
  /** Monotonic seconds since an arbitrary start. */
  now(): number
  /** Resolves after `seconds`; rejects with the signal's coded error when aborted first. */
  sleep(seconds: number, signal?: AbortSignal): Promise<void>
}

/** Uniform in [0, 1). */
export type Random = () => number
