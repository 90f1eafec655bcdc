import { setTimeout as delay } from 'node:timers/promises'
import type { Clock } from '../clock.ts'
import { abortError } from '../errors.ts'

/** Timers take a signed 32-bit number of milliseconds and fire at once beyond it. */
const MAX_TIMER_MS = 2 ** 31 - 1

/** One origin for all threads of a process, which `performance.now` does not promise: traces put their times together. */
export const realClock: Clock = { now: () => Number(process.hrtime.bigint()) / 1e9, sleep }

async function sleep(seconds: number, signal?: AbortSignal): Promise<void> {
  if (signal === undefined) return delay(timerMs(seconds))
  try {
    await delay(timerMs(seconds), undefined, { signal })
  } catch {
    // A timer fails in one way only: it was aborted.
    throw abortError(signal)
  }
}

function timerMs(seconds: number): number {
  return Math.min(Math.ceil(seconds * 1000), MAX_TIMER_MS)
}
