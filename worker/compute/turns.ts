/**
 * Who may compute. The runs of a worker share one thread, and a run asks for the turn before each piece of arithmetic.
 * Two rules decide between those that ask:
 *
 * - Prefills go in the order in which they came to the worker: a later one computes only while every earlier one waits
 *   for blocks or is done, so it fills the earlier one's bubbles and slows it by one piece at most.
 * - Between decoding and prefilling, time decides: while both want to compute, prefilling gets `PREFILL_SHARE` of it, and
 *   decoding goes first. Answers take turns among themselves.
 *
 * Who waits for blocks holds no turn, so runs that come to two workers in different orders cannot block each other.
 */
import type { Clock } from '../../shared/clock.ts'
import { abortError } from '../../shared/errors.ts'

/** A token of an answer is short, and somebody reads it as it comes; but the first token of the next prompt waits too. */
const PREFILL_SHARE = 1 / 3

/** No piece counts as less, so that time passes even where a clock is too coarse to see it. */
const LEAST_SECONDS = 1e-6

/** One run's access to the thread. */
export interface Turn {
  /**
   * Gives the turn back if it is held, lets messages of other threads in, and resolves when the run may compute. Rejects
   * with the signal's coded error once the run is cancelled.
   */
  take(): Promise<void>
  /** The run waits for something: others may compute. */
  rest(): void
  /** The prompt is computed: from here on the run's arithmetic is that of an answer. */
  decode(): void
  /** Seconds in which the run has held the turn. */
  readonly seconds: number
  /** The run is over. */
  close(): void
}

interface Run {
  /** Place in the order of arrival. */
  readonly order: number
  decoding: boolean
  seconds: number
}

interface Asking {
  readonly run: Run
  readonly grant: () => void
  readonly refuse: (error: unknown) => void
}

export class Turns {
  readonly #clock: Clock
  readonly #letMessagesIn: () => Promise<void>
  /** In the order of asking. At most one of each run. */
  readonly #asking: Asking[] = []
  #opened = 0
  #holder: Run | undefined
  #since = 0
  /** A turn is about to be given, once messages have been let in. */
  #giving = false
  /** Whether both kinds wanted the turn that is held now. */
  #contended = false
  /** Seconds that prefilling is behind its share. */
  #owed = 0

  constructor(clock: Clock, letMessagesIn: () => Promise<void>) {
    this.#clock = clock
    this.#letMessagesIn = letMessagesIn
  }

  /** A run has come. */
  open(signal: AbortSignal): Turn {
    const run: Run = { order: this.#opened++, decoding: false, seconds: 0 }
    const onAbort = (): void => this.#withdraw(run, abortError(signal))
    const held = (): number => this.#held(run)
    signal.addEventListener('abort', onAbort, { once: true })
    return {
      take: () => this.#take(run, signal),
      rest: () => this.#giveBack(run),
      decode: () => {
        run.decoding = true
      },
      get seconds() {
        return run.seconds + held()
      },
      close: () => {
        signal.removeEventListener('abort', onAbort)
        this.#giveBack(run)
      },
    }
  }

  async #take(run: Run, signal: AbortSignal): Promise<void> {
    this.#giveBack(run)
    if (signal.aborted) throw abortError(signal)
    await new Promise<void>((grant, refuse) => {
      this.#asking.push({ run, grant, refuse })
      this.#giveNext()
    })
  }

  #giveBack(run: Run): void {
    if (this.#holder !== run) return
    const seconds = this.#held(run)
    run.seconds += seconds
    const charged = Math.max(seconds, LEAST_SECONDS)
    if (!this.#contended) this.#owed = 0
    else this.#owed += run.decoding ? (charged * PREFILL_SHARE) / (1 - PREFILL_SHARE) : -charged
    this.#holder = undefined
    this.#giveNext()
  }

  #withdraw(run: Run, error: Error): void {
    const at = this.#asking.findIndex((asking) => asking.run === run)
    if (at >= 0) this.#asking.splice(at, 1)[0]?.refuse(error)
  }

  #giveNext(): void {
    if (this.#giving || this.#holder !== undefined || this.#asking.length === 0) return
    this.#giving = true
    const give = (): void => this.#give()
    this.#letMessagesIn().then(give, give)
  }

  #give(): void {
    this.#giving = false
    const next = nextTurn(this.#asking, this.#owed > 0)
    if (next === undefined) return // who asked was cancelled meanwhile
    this.#contended = this.#asking.some(({ run }) => run.decoding !== next.run.decoding)
    this.#asking.splice(this.#asking.indexOf(next), 1)
    this.#holder = next.run
    this.#since = this.#clock.now()
    next.grant()
  }

  #held(run: Run): number {
    return this.#holder === run ? this.#clock.now() - this.#since : 0
  }
}

/** Of those that ask, in the order of asking: the answer that asked first, or the prefill that came first. */
function nextTurn(asking: readonly Asking[], prefillIsDue: boolean): Asking | undefined {
  const answer = asking.find(({ run }) => run.decoding)
  const prefill = asking
    .filter(({ run }) => !run.decoding)
    .reduce<Asking | undefined>((first, next) => (first && first.run.order < next.run.order ? first : next), undefined)
  return prefillIsDue ? (prefill ?? answer) : (answer ?? prefill)
}
