import { abortError } from '../../shared/errors.ts'

/** A piece of an answer as it goes out: the data of one event, or the whole body. */
export interface AnswerEvent {
  readonly data: string
  /** Something of the model's answer is in it: from here on it must not be told differently. */
  readonly tells: boolean
}

/**
 * An answer that is kept: appended to by one, read by any number from any position, before and after its end. The log is
 * the truth; what a reader gets is the same whenever it came.
 */
export class AnswerLog {
  readonly id: string
  readonly #events: AnswerEvent[] = []
  readonly #onReaders: (count: number) => void
  readonly #waiting = new Set<() => void>()
  #bytes = 0
  #readers = 0
  #ended = false
  #error: unknown

  /** @param onReaders hears how many read it, whenever that changes */
  constructor(id: string, onReaders: (count: number) => void) {
    this.id = id
    this.#onReaders = onReaders
  }

  /** What it takes in memory, as far as texts are concerned. */
  get bytes(): number {
    return this.#bytes
  }

  get told(): boolean {
    return this.#events.some(({ tells }) => tells)
  }

  append(event: AnswerEvent): void {
    this.#events.push(event)
    this.#bytes += 2 * event.data.length
    this.#wake()
  }

  end(): void {
    this.#ended = true
    this.#wake()
  }

  fail(error: unknown): void {
    this.#error = error
    this.end()
  }

  /** Yields what there is from `position` on, then what comes, until the end; throws the error that it ended with. */
  async *read(position: number, signal: AbortSignal): AsyncGenerator<AnswerEvent, void> {
    this.#onReaders(++this.#readers)
    try {
      for (let at = position; ; ) {
        if (signal.aborted) throw abortError(signal)
        const event = this.#events[at]
        if (event !== undefined) {
          at += 1
          yield event
        } else if (!this.#ended) await this.#news(signal)
        else if (this.#error !== undefined) throw this.#error
        else return
      }
    } finally {
      this.#onReaders(--this.#readers)
    }
  }

  #news(signal: AbortSignal): Promise<void> {
    return new Promise((resolve) => {
      const wake = (): void => {
        signal.removeEventListener('abort', wake)
        this.#waiting.delete(wake)
        resolve()
      }
      signal.addEventListener('abort', wake, { once: true })
      this.#waiting.add(wake)
    })
  }

  #wake(): void {
    for (const wake of [...this.#waiting]) wake()
  }
}
