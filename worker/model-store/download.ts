import type { Clock } from '../../shared/clock.ts'
import { HeadraceError } from '../../shared/errors.ts'
import { BufferPool } from '../../shared/link/buffer-pool.ts'
import type { Log } from '../../shared/log.ts'
import type { Exchange } from '../../shared/security/exchange.ts'
import type { WorkerMetrics } from '../metrics.ts'
import { fetchPiece, PieceRefusal } from './fetch-piece.ts'
import type { PartialModel } from './partial-model.ts'
import type { Job, Swarm } from './swarm.ts'

export interface DownloadDeps {
  readonly model: PartialModel
  readonly swarm: Swarm
  /** Given what to call when the swarm has new sources. */
  readonly onNews: (wake: () => void) => void
  readonly exchange: Exchange
  readonly clock: Clock
  readonly metrics: WorkerMetrics
  readonly log: Log
  readonly signal: AbortSignal
}

/**
 * Fetches every piece that is missing. Ends with all of them verified and on disk, or with a coded error: the caller's
 * signal, a disk that fails, or no source left that has not lied.
 */
export async function download(of: DownloadDeps): Promise<void> {
  const stop = new AbortController()
  const signal = AbortSignal.any([of.signal, stop.signal])
  const running = new Set<Promise<void>>()
  const buffers = new BufferPool()
  let wake = (): void => undefined
  of.onNews(() => wake())
  try {
    while (!of.model.complete) {
      const news = new Promise<void>((resolve) => {
        wake = resolve
      })
      signal.throwIfAborted()
      // one look at the clock: a rest that ended between two of them would be waited for for ever
      const now = of.clock.now()
      for (let job = of.swarm.next(now); job !== undefined; job = of.swarm.next(now)) {
        const one = fetchOne(job, of, buffers, signal)
          .catch((thrown: unknown) => stop.abort(thrown))
          .then(() => {
            running.delete(one)
            wake()
          })
        running.add(one)
      }
      if (running.size === 0) await rest(of, now, news, signal)
      else await news
    }
    signal.throwIfAborted()
  } finally {
    stop.abort(new HeadraceError('cancelled', 'the download is over'))
    await Promise.all(running)
  }
}

/** Nobody can be asked now: until a source has rested, or there is a new one. */
async function rest(
  { swarm, clock }: DownloadDeps,
  now: number,
  news: Promise<void>,
  signal: AbortSignal,
): Promise<void> {
  if (swarm.hopeless)
    throw new HeadraceError('model_tampered', 'every source of the model has sent bytes that are not those of its hash')
  const over = new AbortController()
  const until = swarm.restsUntil(now) ?? Number.POSITIVE_INFINITY
  const sleep = clock.sleep(until - now, AbortSignal.any([signal, over.signal])).catch(() => undefined) // see below
  await Promise.race([sleep, news])
  over.abort()
  signal.throwIfAborted()
}

async function fetchOne(job: Job, of: DownloadDeps, buffers: BufferPool, signal: AbortSignal): Promise<void> {
  const { model, swarm, clock, metrics, log } = of
  const piece = model.pieces[job.piece]!
  const bytes = buffers.take(piece.length)
  try {
    await fetchPiece(of.exchange, job.source.url, piece, bytes, signal)
    await model.write(job.piece, bytes)
    swarm.done(job)
    metrics.weightsBytes.inc({ source: job.source.coordinator ? 'coordinator' : 'worker' }, piece.length)
  } catch (thrown) {
    if (!(thrown instanceof PieceRefusal)) throw thrown
    metrics.weightsRefusals.inc({ reason: thrown.how })
    if (thrown.how === 'missing') swarm.missing(job, clock.now())
    else if (thrown.how === 'failed') swarm.failed(job, clock.now())
    else swarm.lied(job)
    const level = thrown.how === 'lied' ? 'warn' : 'info'
    log[level]({ source: job.source.url, file: piece.file.name, how: thrown.how }, thrown.message)
  } finally {
    buffers.give(bytes)
  }
}
