import type { Clock } from '../../shared/clock.ts'
import { asHeadraceError, type ErrorCode, HeadraceError, isErrorCode } from '../../shared/errors.ts'
import type { RunId } from '../../shared/ids.ts'
import type { Plan } from '../../shared/plan.ts'
import type { Command, RunWorker, WorkerEvent } from '../../shared/protocol/control.ts'
import { decodeTickets, keepTickets, prefillTickets, signFor, type TicketAsk } from '../security/ticket-office.ts'
import type { RunRequest } from './events.ts'
import type { Watch } from './progress.ts'

/** The links to the workers, as a run needs them. */
export interface Workers {
  /** Where other workers fetch KV from this one. */
  urlOf(worker: string): string
  send(worker: string, command: Command, payload?: Uint8Array): void
  /** Lets one worker fetch KV of a run from another, for a minute. */
  ticket(of: TicketAsk): string
  /** Whether there is a link to the worker: what is sent to any other is lost. */
  has(worker: string): boolean
  /** From now on `onEvent` gets what workers say about the run, and `onLost` hears of any worker that goes. */
  follow(run: RunId, follower: RunFollower): () => void
}

export interface RunFollower {
  onEvent(worker: string, event: WorkerEvent, payload: Uint8Array): void
  onLost(worker: string, error: HeadraceError): void
}

export interface WorkerNews {
  readonly worker: string
  readonly event: WorkerEvent
  readonly payload: Uint8Array
}

/** A run that does not get on is given up: its workers live, but something between them hangs. */
export interface Patience {
  readonly clock: Clock
  readonly watch: Watch
}

/**
 * Sends a plan out and yields what its workers report, until each of them has finished (DESIGN section 2, step 5). The
 * first failure, an abort of `signal`, or leaving the generator cancels the run on every worker at once.
 */
export async function* dispatch(
  run: RunId,
  plan: Plan,
  request: RunRequest,
  workers: Workers,
  patience: Patience,
  signal: AbortSignal,
): AsyncGenerator<WorkerNews, void> {
  const unfinished = new Set<string>([...plan.workers.map(({ worker }) => worker), plan.decode])
  const news = new News(unfinished, patience)
  const unfollow = workers.follow(run, news)
  const onAbort = (): void => news.fail(asHeadraceError(signal.reason, 'cancelled'))
  const onEnough = (): void => workers.send(plan.decode, { kind: 'stop', run })
  const over = new AbortController()
  let reason: HeadraceError = new HeadraceError('cancelled', 'the client has what it wants')
  try {
    signal.throwIfAborted()
    for (const worker of unfinished)
      if (!workers.has(worker)) throw new HeadraceError('worker_lost', `${worker} left before the run began`)
    signal.addEventListener('abort', onAbort, { once: true })
    assign(run, plan, request, workers)
    void keepTickets({ run, plan, clock: patience.clock, workers }, over.signal)
    request.enough?.addEventListener('abort', onEnough, { once: true })
    while (unfinished.size > 0) {
      const next = await news.next()
      if (next.event.kind === 'finished') unfinished.delete(next.worker)
      yield next
    }
  } catch (thrown) {
    reason = asHeadraceError(thrown, 'cancelled')
    throw reason
  } finally {
    over.abort()
    signal.removeEventListener('abort', onAbort)
    request.enough?.removeEventListener('abort', onEnough)
    unfollow()
    for (const worker of unfinished) workers.send(worker, { kind: 'cancel', run, code: reason.code })
  }
}

/** Everything each worker needs to know, so that none has to ask back. The decode node first: it waits the longest. */
function assign(run: RunId, plan: Plan, request: RunRequest, to: Workers): void {
  const { promptTokens: tokens } = request
  const { blockTokens, decode } = plan
  const sign = signFor(run, to)
  const workers: RunWorker[] = plan.workers.map(({ worker, spans, prefixWire, handoffWire }) => ({
    worker,
    url: to.urlOf(worker),
    spans: spans.map(({ start, end }) => ({ start, end })),
    prefixWire,
    handoffWire,
  }))
  const decoding: Command = {
    kind: 'decode',
    run,
    workers,
    blockTokens,
    prefillTokens: plan.prefillTokens,
    promptTokens: tokens.length,
    maxTokens: request.maxTokens,
    stopTokens: [...request.stopTokens],
    sampling: request.sampling,
    wantLogits: request.wantLogits ?? false,
    tickets: decodeTickets(plan, sign),
  }
  to.send(decode, decoding, bytesOf(tokens.subarray(plan.prefillTokens)))
  for (const [rank, { worker, spans }] of plan.workers.entries()) {
    const own = Int32Array.from(spans.flatMap(({ start, end }) => [...tokens.subarray(start, end)]))
    const { strategy } = plan
    const promptTokens = tokens.length
    const told = { run, strategy, rank, workers, decode, blockTokens, promptTokens }
    to.send(worker, { kind: 'prefill', ...told, tickets: prefillTickets(plan, rank, sign) }, bytesOf(own))
  }
}

const bytesOf = ({ buffer, byteOffset, byteLength }: Int32Array): Uint8Array =>
  new Uint8Array(buffer, byteOffset, byteLength)

/**
 * What the workers of a run say, in order. Bounded by what a run can say: a line per layer and worker, one per token;
 * and links that fill faster than they are read are paused.
 */
class News implements RunFollower {
  /** Workers that have not said the last of this run: losing another one is no matter. */
  readonly #owing: Set<string>
  readonly #patience: Patience
  readonly #unread: WorkerNews[] = []
  #error: HeadraceError | undefined
  #wake: (() => void) | undefined

  constructor(workers: Iterable<string>, patience: Patience) {
    this.#owing = new Set(workers)
    this.#patience = patience
  }

  onEvent(worker: string, event: WorkerEvent, payload: Uint8Array): void {
    this.#patience.watch.heard()
    if (event.kind === 'failed') {
      this.fail(new HeadraceError(codeForClient(event.code), `${worker}: ${event.message}`, { details: { worker } }))
      return
    }
    if (event.kind === 'finished') this.#owing.delete(worker)
    this.#unread.push({ worker, event, payload })
    this.#wake?.()
  }

  onLost(worker: string, error: HeadraceError): void {
    if (!this.#owing.has(worker)) return
    this.fail(
      new HeadraceError('worker_lost', `${worker} vanished: ${error.message}`, { details: { worker }, cause: error }),
    )
  }

  fail(error: HeadraceError): void {
    this.#error ??= error
    this.#wake?.()
  }

  async next(): Promise<WorkerNews> {
    for (;;) {
      if (this.#error !== undefined) throw this.#error
      const news = this.#unread.shift()
      if (news !== undefined) return news
      await this.#wakened()
    }
  }

  /** Resolves when there is something to look at: news, or that there has been none for too long. */
  async #wakened(): Promise<void> {
    const { clock } = this.#patience
    const since = clock.now()
    const waiting = new AbortController()
    const late = (): void =>
      this.fail(new HeadraceError('worker_failed', `no progress for ${(clock.now() - since).toFixed(0)} s`))
    this.#outwait(waiting.signal).then(late, () => undefined) // news came first
    await new Promise<void>((resolve) => {
      this.#wake = resolve
    })
    waiting.abort()
  }

  /** Resolves when the run has stalled. A run ahead of it may get on while this one sleeps. */
  async #outwait(signal: AbortSignal): Promise<void> {
    const { clock, watch } = this.#patience
    for (let left = watch.secondsLeft(); left > 0; left = watch.secondsLeft()) await clock.sleep(left, signal)
  }
}

/** A link between two workers broke: whichever of them is gone, its own link to here tells soon enough. */
function codeForClient(code: string): ErrorCode {
  if (code === 'link_closed') return 'worker_lost'
  return isErrorCode(code) ? code : 'worker_failed'
}
