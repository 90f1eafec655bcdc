import type { Clock, Random } from '../../shared/clock.ts'
import { HeadraceError } from '../../shared/errors.ts'

const MOST_FAILURES = 5
const FIRST_SECONDS = 0.5
const MOST_SECONDS = 30
/** A hub that wants a longer pause is told to the user instead of waited for. */
const MOST_ASKED_SECONDS = 300

/** A failure that may be over the next time. */
export class PassingFailure extends HeadraceError {
  /** The pause that the hub asks for. */
  readonly retryAfterSeconds: number | undefined
  /** Something had come before it failed, so that the next attempt begins further on. */
  readonly progressed: boolean

  constructor(
    message: string,
    of: { cause?: unknown; retryAfterSeconds?: number | undefined; progressed?: boolean } = {},
  ) {
    super('hub_failed', message, { cause: of.cause })
    this.retryAfterSeconds = of.retryAfterSeconds
    this.progressed = of.progressed ?? false
  }
}

export interface Patient {
  readonly clock: Clock
  readonly random: Random
  readonly signal: AbortSignal
  /** Told before each pause. */
  readonly onPause: (failure: PassingFailure, seconds: number) => void
}

/** Tries again, after pauses that double, until `work` has failed so often in a row without any progress. */
export async function patiently<T>(work: () => Promise<T>, { clock, random, signal, onPause }: Patient): Promise<T> {
  for (let failures = 1; ; failures++)
    try {
      return await work()
    } catch (thrown) {
      signal.throwIfAborted()
      if (!(thrown instanceof PassingFailure)) throw thrown
      if (thrown.progressed) failures = 1
      const own = Math.min(FIRST_SECONDS * 2 ** (failures - 1), MOST_SECONDS) * (0.5 + random())
      const seconds = thrown.retryAfterSeconds ?? own
      if (failures >= MOST_FAILURES || seconds > MOST_ASKED_SECONDS) throw thrown
      onPause(thrown, seconds)
      await clock.sleep(seconds, signal)
    }
}
