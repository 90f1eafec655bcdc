import { asHeadraceError, type ErrorCode, HeadraceError, isErrorCode } from '../../shared/errors.ts'
import type { RunId } from '../../shared/ids.ts'
import type { Plan } from '../../shared/plan.ts'
import type { Command, RunWorker, WorkerEvent } from '../../shared/protocol/control.ts'
import type { RunRequest } from './events.ts'

/** The links to the workers, as a run needs them. */
export interface Workers {
  /** Where other workers fetch KV from this one. */
  urlOf(worker: string): string
  send(worker: string, command: Command, payload?: Uint8Array): void
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

/**
 * Sends a plan out and yields what its workers report, until each of them has finished (DESIGN section 2, step 5). The
 * first failure, an abort of `signal`, or leaving the generator cancels the run on every worker at once.
 */
export async function* dispatch(
  run: RunId,
  plan: Plan,
  request: RunRequest,
  workers: Workers,
  signal: AbortSignal,
): AsyncGenerator<WorkerNews, void> {
  const unfinished = new Set<string>([...plan.workers.map(({ worker }) => worker), plan.decode])
  const news = new News(unfinished)
  const unfollow = workers.follow(run, news)
  const onAbort = (): void => news.fail(asHeadraceError(signal.reason, 'cancelled'))
  const onEnough = (): void => workers.send(plan.decode, { kind: 'stop', run })
  let reason: HeadraceError = new HeadraceError('cancelled', 'the client has what it wants')
  try {
    signal.throwIfAborted()
    signal.addEventListener('abort', onAbort, { once: true })
    assign(run, plan, request, workers)
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
  const workers: RunWorker[] = plan.workers.map(({ worker, spans }) => ({
    worker,
    url: to.urlOf(worker),
    spans: spans.map(({ start, end }) => ({ start, end })),
  }))
  const decoding: Command = {
    kind: 'decode',
    run,
    workers,
    blockTokens,
    promptTokens: tokens.length,
    maxTokens: request.maxTokens,
    stopTokens: [...request.stopTokens],
    sampling: request.sampling,
    wantLogits: request.wantLogits ?? false,
  }
  to.send(decode, decoding, bytesOf(tokens.subarray(plan.prefillTokens)))
  for (const [rank, { worker, spans }] of plan.workers.entries()) {
    const own = Int32Array.from(spans.flatMap(({ start, end }) => [...tokens.subarray(start, end)]))
    const { strategy } = plan
    to.send(worker, { kind: 'prefill', run, strategy, rank, workers, decode, blockTokens }, bytesOf(own))
  }
}

const bytesOf = ({ buffer, byteOffset, byteLength }: Int32Array): Uint8Array =>
  new Uint8Array(buffer, byteOffset, byteLength)

/**
 * What the workers of a run say, in order. Bounded by what a run can say: a line per layer and worker, one per token;
 * and links that fill faster than they are read are paused.
 */
class News implements RunFollower {
  readonly #workers: ReadonlySet<string>
  readonly #unread: WorkerNews[] = []
  #error: HeadraceError | undefined
  #wake: (() => void) | undefined

  /** @param workers those of the run that have not finished: losing another one is no matter */
  constructor(workers: ReadonlySet<string>) {
    this.#workers = workers
  }

  onEvent(worker: string, event: WorkerEvent, payload: Uint8Array): void {
    if (event.kind === 'failed') {
      this.fail(new HeadraceError(codeForClient(event.code), `${worker}: ${event.message}`, { details: { worker } }))
      return
    }
    this.#unread.push({ worker, event, payload })
    this.#wake?.()
  }

  onLost(worker: string, error: HeadraceError): void {
    if (!this.#workers.has(worker)) return
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
      await new Promise<void>((resolve) => {
        this.#wake = resolve
      })
    }
  }
}

/** A link between two workers broke: whichever of them is gone, its own link to here tells soon enough. */
function codeForClient(code: string): ErrorCode {
  if (code === 'link_closed') return 'worker_lost'
  return isErrorCode(code) ? code : 'worker_failed'
}
