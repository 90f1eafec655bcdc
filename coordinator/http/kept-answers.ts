import type { Clock } from '../../shared/clock.ts'
import { HeadraceError } from '../../shared/errors.ts'
import { type AnswerEvent, AnswerLog } from './answer-log.ts'
import { invalid } from './errors.ts'
import type { Repeatable } from './idempotency-key.ts'

/** How long a finished answer can be had again. */
const KEEP_SECONDS = 3600
/** How long a run goes on that nobody listens to: a client whose connection broke comes back within this. */
const GRACE_SECONDS = 30
const MOST_ENTRIES = 1024
const MOST_BYTES = 64 * 2 ** 20

export interface KeptAnswersLimits {
  readonly entries: number
  readonly bytes: number
}

interface Entry {
  readonly account: string
  readonly hash: string
  readonly log: AnswerLog
  readonly stream: boolean
  readonly run: AbortController
  /** Aborted when somebody listens again, or the answer is complete. */
  patience: AbortController
  /** What it may come to while it runs; then what it came to. */
  bytes: number
  /** Absent while it runs. */
  finishedAt?: number
}

/** What is found under a key, or begun. */
export interface Kept {
  readonly log: AnswerLog
  readonly stream: boolean
}

/** The making of an answer that shall be kept. */
export interface Making {
  readonly id: string
  readonly stream: boolean
  /** Most bytes that it can come to. */
  readonly mostBytes: number
  readonly make: (signal: AbortSignal) => AsyncGenerator<AnswerEvent, void>
}

/**
 * Answers to requests with an `Idempotency-Key`. One run for a key: who asks again while it runs listens to the same run,
 * afterwards gets the same answer; what failed before it told anything is forgotten, so that asking again runs again.
 * Bounded in entries and bytes: room is reserved before a run begins, the oldest finished answers make way.
 */
export class KeptAnswers {
  readonly #clock: Clock
  readonly #limits: KeptAnswersLimits
  /** In the order of beginning. */
  readonly #entries = new Map<string, Entry>()
  #bytes = 0

  constructor(clock: Clock, limits: KeptAnswersLimits = { entries: MOST_ENTRIES, bytes: MOST_BYTES }) {
    this.#clock = clock
    this.#limits = limits
  }

  get entries(): number {
    return this.#entries.size
  }

  get bytes(): number {
    return this.#bytes
  }

  /** Throws `idempotency_mismatch` if the key stands for another request. */
  find(of: Repeatable): (Kept & { readonly finished: boolean }) | undefined {
    this.#expire()
    const entry = this.#entries.get(nameOf(of))
    if (entry === undefined) return undefined
    if (entry.hash !== of.hash)
      throw new HeadraceError('idempotency_mismatch', 'this Idempotency-Key was used for another request', {
        details: { param: 'Idempotency-Key' },
      })
    return { log: entry.log, stream: entry.stream, finished: entry.finishedAt !== undefined }
  }

  /** Begins a run whose answer is kept. Throws `invalid_request` or `rate_limit_exceeded` if there is no room for it. */
  begin(of: Repeatable, making: Making): Kept {
    const name = nameOf(of)
    this.#makeRoom(of.account, making.mostBytes)
    const entry: Entry = {
      account: of.account,
      hash: of.hash,
      log: new AnswerLog(making.id, (readers) => this.#heard(entry, readers)),
      stream: making.stream,
      run: new AbortController(),
      patience: new AbortController(),
      bytes: making.mostBytes,
    }
    this.#entries.set(name, entry)
    this.#bytes += entry.bytes
    void this.#write(name, entry, making.make(entry.run.signal))
    return entry
  }

  /** Writes the log to its end. Never rejects: what goes wrong is in the log, for those who read it. */
  async #write(name: string, entry: Entry, events: AsyncGenerator<AnswerEvent, void>): Promise<void> {
    const { log } = entry
    try {
      for await (const event of events) log.append(event)
      log.end()
    } catch (thrown) {
      if (!log.told) this.#forget(name, entry)
      log.fail(thrown)
    }
    entry.finishedAt = this.#clock.now()
    entry.patience.abort()
    if (this.#entries.get(name) === entry) this.#resize(entry, log.bytes)
  }

  /** Ends a run to which nobody has listened for a while. */
  #heard(entry: Entry, readers: number): void {
    entry.patience.abort()
    if (readers > 0 || entry.finishedAt !== undefined) return
    entry.patience = new AbortController()
    const left = new HeadraceError('cancelled', `nobody came back for the answer within ${GRACE_SECONDS} seconds`)
    this.#clock.sleep(GRACE_SECONDS, entry.patience.signal).then(
      () => entry.run.abort(left),
      () => undefined, // somebody did
    )
  }

  #makeRoom(account: string, bytes: number): void {
    const { entries: mostEntries, bytes: mostBytes } = this.#limits
    if (bytes > mostBytes)
      throw invalid('max_tokens', `an answer that may take ${bytes} bytes is too long to be kept for Idempotency-Key`)
    while (this.#entries.size >= mostEntries || this.#bytes + bytes > mostBytes) {
      const finished = [...this.#entries].filter(([, { finishedAt }]) => finishedAt !== undefined)
      // Whoever asks much pushes out its own first.
      const oldest = finished.find(([, entry]) => entry.account === account) ?? finished[0]
      if (oldest === undefined)
        throw new HeadraceError('rate_limit_exceeded', 'too many answers are being kept for Idempotency-Key')
      this.#forget(...oldest)
    }
  }

  #expire(): void {
    const before = this.#clock.now() - KEEP_SECONDS
    for (const [name, entry] of this.#entries)
      if (entry.finishedAt !== undefined && entry.finishedAt <= before) this.#forget(name, entry)
  }

  #forget(name: string, entry: Entry): void {
    if (this.#entries.delete(name)) this.#resize(entry, 0)
  }

  #resize(entry: Entry, bytes: number): void {
    this.#bytes += bytes - entry.bytes
    entry.bytes = bytes
  }
}

const nameOf = ({ account, key }: Repeatable): string => `${account} ${key}`
