import { realClock } from '../../../shared/link/real-clock.ts'
import { machineCpu } from './proc.ts'

/** Cores' worth of foreign work below which a run counts as undisturbed. */
export const QUIET_CORES = 0.1

/** Longer than the pause after which workers tidy up (`worker/idle.ts`). */
const LOOK_SECONDS = 2

/**
 * Waits for two seconds in which hardly anything ran, while the cluster itself is idle. Resolves after `mostSeconds` at the
 * latest: a busy machine makes poor figures, not none.
 */
export async function untilQuiet(mostSeconds: number, signal: AbortSignal): Promise<void> {
  const deadline = realClock.now() + mostSeconds
  while (realClock.now() < deadline) {
    const before = machineCpu()
    await realClock.sleep(LOOK_SECONDS, signal)
    const after = machineCpu()
    const used = after.busySeconds - before.busySeconds + after.stolenSeconds - before.stolenSeconds
    if (used / LOOK_SECONDS < QUIET_CORES) return
  }
}
