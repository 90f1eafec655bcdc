import type { Clock } from '../../shared/clock.ts'
import type { RunId } from '../../shared/ids.ts'

/** How a run's workers are watched. */
export interface Watch {
  /** A worker of the run has said something. */
  heard(): void
  /** The prompt is computed: the run no longer stands in the way of later ones. */
  answers(): void
  /** Seconds of silence that may yet pass before the run counts as stalled; 0 or less when it does. */
  secondsLeft(): number
  done(): void
}

interface Watched {
  /** Seconds without a word after which the run, left alone, counts as stalled. */
  readonly stallSeconds: number
  heardAt: number
  answers: boolean
}

/**
 * Which runs get on. Workers compute prompts in the order in which they were sent out (`worker/compute/turns.ts`), so a
 * run may be silent because an earlier one computes: as long as that one gets on, so does the later one, and what counts
 * as silence is measured by the slower of them.
 */
export class Progress {
  readonly #clock: Clock
  /** In the order of sending out. */
  readonly #runs = new Map<RunId, Watched>()

  constructor(clock: Clock) {
    this.#clock = clock
  }

  /** The run's assignments are about to be sent. */
  watch(run: RunId, stallSeconds: number): Watch {
    const watched = { stallSeconds, heardAt: this.#clock.now(), answers: false }
    this.#runs.set(run, watched)
    return {
      heard: () => this.#heard(run, watched),
      answers: () => {
        this.#heard(run, watched)
        watched.answers = true
      },
      secondsLeft: () => watched.heardAt + this.#limit(run) - this.#clock.now(),
      done: () => {
        this.#heard(run, watched)
        this.#runs.delete(run)
      },
    }
  }

  /** Good news for the run itself, and for all that wait behind it. */
  #heard(run: RunId, watched: Watched): void {
    const now = this.#clock.now()
    watched.heardAt = now
    if (watched.answers) return
    let behind = false
    for (const [id, other] of this.#runs) {
      if (behind) other.heardAt = now
      else behind = id === run
    }
  }

  #limit(run: RunId): number {
    let limit = 0
    for (const [id, { stallSeconds, answers }] of this.#runs) {
      if (id === run) return Math.max(limit, stallSeconds)
      if (!answers) limit = Math.max(limit, stallSeconds)
    }
    return limit
  }
}
