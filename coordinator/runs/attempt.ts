import type { Clock } from '../../shared/clock.ts'
import { asHeadraceError, type ErrorCode, HeadraceError, isErrorCode } from '../../shared/errors.ts'
import { asRunId } from '../../shared/ids.ts'
import { type Plan, type Span, spanTokens } from '../../shared/plan.ts'
import type { Checked, LayerRange, RunWorker, WorkerEvent } from '../../shared/protocol/control.ts'
import { planRepair, type Repairer } from '../planning/repair.ts'
import { keepTickets } from '../security/ticket-office.ts'
import { type Assigning, assignAll, assignRepair, planWorkers, refreshTickets } from './assign.ts'
import type { Repair } from './events.ts'
import { type News, NewsQueue, type WorkerNews } from './news.ts'
import { checkedGap, type Gap, gapsOf, isLate, laggard, type Part, partOf, stuck, tokensOfPart } from './parts.ts'
import type { Watch } from './progress.ts'

export interface AttemptOptions extends Assigning {
  readonly clock: Clock
  readonly watch: Watch
  /** Who could compute what another one did not finish: best those that are not `excluded`. */
  readonly repairers: (excluded: ReadonlySet<string>) => readonly Omit<Repairer, 'busySeconds'>[]
  /** A worker has taken over a part; called back when it is over. */
  readonly occupy: (part: Part) => () => void
  /** Seconds of arithmetic that a part still takes. */
  readonly secondsLeft: (part: Part) => number
  readonly onRepair: (repair: Repair) => void
  /** The decode node has computed a block of a worker again. */
  readonly onChecked: (checked: Checked) => void
}

/** The attempt cannot be saved, but the run can: on other workers. */
export class AttemptFailed extends Error {
  /** Who failed. */
  readonly worker: string
  override readonly cause: HeadraceError

  constructor(worker: string, cause: HeadraceError) {
    super(cause.message)
    this.worker = worker
    this.cause = cause
  }
}

/** Repairs beyond this are of a cluster that does not get on. */
const MOST_REPAIRS = 32
/** A worker may send one block that the network has damaged. Of two, it is more likely the cause. */
const MOST_REFUSED = 1

/**
 * A plan sent out, until all of its workers have finished (DESIGN section 2, step 5; section 7). What a worker did not
 * finish is computed by those that are left, on top of what others have finished. Yields what workers report. Throws
 * `AttemptFailed` if the decode node is lost, and with it all that was computed. Any end but a good one, an abort of
 * `signal`, or leaving the generator, cancels the attempt on every worker at once.
 */
export async function* attemptRun(of: AttemptOptions, signal: AbortSignal): AsyncGenerator<WorkerNews, void> {
  const attempt = new Attempt(of)
  const { request, workers, plan } = of
  const onAbort = (): void => attempt.news.fail(asHeadraceError(signal.reason, 'cancelled'))
  const onEnough = (): void => workers.send(plan.decode, { kind: 'stop', run: of.id })
  let reason: HeadraceError = new HeadraceError('cancelled', 'the client has what it wants')
  try {
    if (signal.aborted) onAbort()
    signal.addEventListener('abort', onAbort, { once: true })
    attempt.begin()
    request.enough?.addEventListener('abort', onEnough, { once: true })
    if (request.enough?.aborted) onEnough()
    while (!attempt.done) {
      const said = attempt.take(await attempt.news.next())
      if (said !== undefined) yield said
    }
  } catch (thrown) {
    reason = thrown instanceof AttemptFailed ? thrown.cause : asHeadraceError(thrown, 'cancelled')
    throw thrown
  } finally {
    signal.removeEventListener('abort', onAbort)
    request.enough?.removeEventListener('abort', onEnough)
    attempt.end(reason)
  }
}

class Attempt {
  readonly news: NewsQueue
  readonly #of: AttemptOptions
  readonly #makers: RunWorker[]
  readonly #parts: Part[]
  /** Workers that failed in this attempt. */
  readonly #excluded = new Set<string>()
  readonly #refused = new Map<string, number>()
  readonly #unfollow: (() => void)[] = []
  readonly #over = new AbortController()
  readonly #leave = new Map<Part, () => void>()
  #repairs = 0
  #decoded = false
  /** Whether workers that have finished have been checked on. */
  #doubted = false

  constructor(of: AttemptOptions) {
    this.#of = of
    this.news = new NewsQueue(of.clock, of.watch)
    this.#makers = planWorkers(of)
    this.#parts = this.#makers.map((by) => partOf(of.id, by, { from: 0, to: of.layers }, of.clock.now()))
  }

  get done(): boolean {
    return this.#decoded && this.#parts.every(({ state }) => state !== 'computing')
  }

  begin(): void {
    const { id, plan, workers } = this.#of
    this.#unfollow.push(workers.follow(asRunId(id), this.news))
    if (!workers.has(plan.decode)) throw this.#decodeLost(gone(plan.decode))
    assignAll(this.#of, this.#makers)
    void keepTickets(() => refreshTickets(this.#of, this.#parts), this.#of.clock, this.#over.signal)
    for (const { worker } of this.#makers) if (!workers.has(worker)) this.#lose(worker, gone(worker))
  }

  /** What the run's own reader is to see of it. */
  take(news: News): WorkerNews | undefined {
    if (news.kind === 'gone') this.#gone(news.worker, news.error)
    else if (news.kind === 'stalled') this.#stalled(news.seconds)
    else if (this.#isOurs(news)) return this.#said(news)
    return undefined
  }

  end({ code }: HeadraceError): void {
    const { id, plan, workers } = this.#of
    this.#over.abort()
    for (const unfollow of this.#unfollow) unfollow()
    for (const { state, by, id: run } of this.#parts)
      if (state === 'computing') workers.send(by.worker, { kind: 'cancel', run, code })
    if (!this.#decoded) workers.send(plan.decode, { kind: 'cancel', run: id, code })
    for (const leave of this.#leave.values()) leave()
  }

  /** A worker speaks for its own parts only. */
  #isOurs({ worker, event }: WorkerNews): boolean {
    if (!('run' in event)) return false
    if (event.run === this.#of.id && worker === this.#of.plan.decode) return true
    return this.#part(event.run, worker)?.state === 'computing'
  }

  #said(news: WorkerNews): WorkerNews | undefined {
    const { event, worker } = news
    const fromDecode = worker === this.#of.plan.decode && 'run' in event && event.run === this.#of.id
    if (event.kind === 'failed') this.#failed(worker, event, fromDecode)
    else if (fromDecode) return this.#fromDecode(news)
    else if (event.kind === 'layer_finished') return this.#layerFinished(news, event)
    else if (event.kind === 'finished') return this.#finished(news, event.run)
    return undefined
  }

  #fromDecode(news: WorkerNews): WorkerNews | undefined {
    const { event, payload } = news
    if (event.kind === 'finished') this.#decoded = true
    else if (event.kind === 'feed_lost') this.#losePart(event.part, event.worker, coded(event.code, event.message))
    else if (event.kind === 'block_refused') {
      this.#refusedBlock(event)
      return undefined
    } else if (event.kind === 'surveyed') {
      this.#surveyed(event, payload)
      return undefined
    } else if (event.kind === 'checked') {
      this.#checked(event)
      return undefined
    }
    return news
  }

  #layerFinished(news: WorkerNews, { run, layer }: { run: string; layer: number }): WorkerNews {
    const part = this.#part(run, news.worker)!
    part.finishedLayers = Math.max(part.finishedLayers, layer + 1)
    this.#hurry()
    return news
  }

  /** Who has slowed down, and holds up the others, is given up if another worker could do it sooner. */
  #hurry(): void {
    const { clock, secondsLeft, repairers, plan } = this.#of
    const part = laggard(this.#parts)
    if (part === undefined || !isLate(part, clock.now(), secondsLeft({ ...part, finishedLayers: 0 }))) return
    const { worker } = part.by
    const others = repairers(new Set([...this.#excluded, worker]))
    if (others.every((other) => other.worker === plan.decode)) return
    this.#losePart(part.id, worker, new HeadraceError('worker_failed', `${worker} is far behind the prediction`))
  }

  #finished(news: WorkerNews, run: string): WorkerNews {
    const part = this.#part(run, news.worker)!
    part.state = 'finished'
    this.#leave.get(part)?.()
    this.#leave.delete(part)
    return news
  }

  #failed(worker: string, event: Extract<WorkerEvent, { kind: 'failed' }>, fromDecode: boolean): void {
    const error = coded(event.code, `${worker}: ${event.message}`)
    if (fromDecode) throw this.#decodeLost(error)
    this.#losePart(event.run, worker, error)
  }

  #gone(worker: string, error: HeadraceError): void {
    const lost = new HeadraceError('worker_lost', `${worker} vanished: ${error.message}`, { cause: error })
    if (worker === this.#of.plan.decode && !this.#decoded) throw this.#decodeLost(lost)
    this.#lose(worker, lost)
  }

  #stalled(seconds: number): void {
    const error = new HeadraceError('worker_failed', `no progress for ${seconds.toFixed(0)} s`)
    // Others may wait for just what does not get through.
    const part = stuck(this.#parts) ?? laggard(this.#parts)
    if (part === undefined && this.#doubted) throw this.#decodeLost(error)
    this.#doubt()
    if (part === undefined) return
    this.#doubted = false
    this.#losePart(part.id, part.by.worker, error)
  }

  /** Those that say that they have handed everything over: has the decode node got it? A laggard may wait for just that. */
  #doubt(): void {
    const { id, plan, workers } = this.#of
    this.#doubted = true
    for (const { id: part, by, state } of this.#parts)
      if (state === 'finished') workers.send(plan.decode, { kind: 'survey', run: id, part, worker: by.worker })
  }

  #lose(worker: string, error: HeadraceError): void {
    for (const part of this.#parts.filter(({ by }) => by.worker === worker)) this.#losePart(part.id, worker, error)
  }

  /** Nothing more comes of a part: what is missing of it, the decode node knows. */
  #losePart(run: string, worker: string, error: HeadraceError): void {
    const { id, plan, workers, clock } = this.#of
    const part = this.#part(run, worker)
    if (part === undefined || part.state !== 'computing') return
    part.state = 'lost'
    this.#leave.get(part)?.()
    this.#leave.delete(part)
    this.#excluded.add(worker)
    this.#of.onRepair({ worker, code: error.code, tokens: tokensOfPart(part), at: clock.now() })
    workers.send(worker, { kind: 'cancel', run, code: error.code })
    if (this.#decoded) return
    if (run === id)
      for (const { id: other, by, state } of this.#parts)
        if (other === id && state === 'computing') workers.send(by.worker, { kind: 'lost', run: id, worker })
    workers.send(plan.decode, { kind: 'survey', run: id, part: run, worker })
  }

  #surveyed({ part: run, worker }: { part: string; worker: string }, payload: Uint8Array): void {
    const part = this.#part(run, worker)
    const gaps = gapsIn(payload, this.#of.plan)
    if (part === undefined || gaps.length === 0) return
    if (part.state === 'finished') {
      // It said that it had handed everything over.
      this.#doubted = false
      this.#excluded.add(worker)
      this.#of.onRepair({ worker, code: 'worker_failed', tokens: spanTokens(gaps), at: this.#of.clock.now() })
    }
    const { spans, layers } = gapsOf(gaps, part, this.#of.plan.blockTokens)
    this.#repair(part, spans, layers)
  }

  #refusedBlock({
    part: run,
    worker,
    layer,
    start,
    count,
    code,
  }: Extract<WorkerEvent, { kind: 'block_refused' }>): void {
    const part = this.#part(run, worker)
    checkedGap({ start, end: start + count, layer }, this.#of.plan)
    if (part === undefined) return
    const refused = (this.#refused.get(worker) ?? 0) + 1
    this.#refused.set(worker, refused)
    const error = coded(code, `${worker} handed over a KV block that is none (layer ${layer}, position ${start})`)
    if (refused > MOST_REFUSED && part.state === 'computing') {
      this.#losePart(run, worker, error)
      return
    }
    this.#of.onRepair({ worker, code: error.code, tokens: count, at: this.#of.clock.now() })
    this.#repair(part, [{ start, end: start + count }], { from: layer, to: layer + 1 })
  }

  /** What others made on top of wrong KV is as wrong: nothing of the attempt can be kept. */
  #checked(checked: Checked): void {
    const { worker, layer, start, wrong } = checked
    if (!this.#parts.some(({ by }) => by.worker === worker)) return
    this.#of.onChecked(checked)
    if (wrong === undefined) return
    const what = `${worker} computed layer ${layer} at position ${start} wrongly`
    throw new AttemptFailed(worker, new HeadraceError('kv_wrong', what))
  }

  /** Whoever is left computes what is missing, at the worst the decode node itself. */
  #repair(part: Part, missing: readonly Span[], layers: LayerRange): void {
    const { id, plan, workers, watch } = this.#of
    if (++this.#repairs > MOST_REPAIRS)
      throw this.#decodeLost(new HeadraceError('worker_failed', `${MOST_REPAIRS} repairs were not enough`))
    const repairers = this.#repairers(part)
    if (repairers.length === 0) throw this.#decodeLost(new HeadraceError('no_workers', 'nobody is left to compute'))
    watch.heard()
    const pieces = planRepair({ missing, blockTokens: plan.blockTokens, layers, repairers })
    for (const { worker, spans } of pieces) {
      const name = `${id}.${this.#parts.length}`
      const { prefixWire, handoffWire } = part.by
      const place = { worker, epoch: workers.epochOf(worker), url: workers.urlOf(worker) }
      this.#assign(partOf(name, { ...place, spans: [...spans], prefixWire, handoffWire }, layers, this.#of.clock.now()))
    }
  }

  #assign(part: Part): void {
    const { workers } = this.#of
    this.#parts.push(part)
    this.#unfollow.push(workers.follow(asRunId(part.id), this.news))
    this.#leave.set(part, this.#of.occupy(part))
    assignRepair(this.#of, part.id, part.by, part.layers)
  }

  /** Workers before the lost one have their own to finish; those after it wait for what it did not send. */
  #repairers(part: Part): Repairer[] {
    const rank = this.#parts.indexOf(part)
    return this.#of.repairers(this.#excluded).map((one) => {
      const own = this.#parts.filter(({ by, state }) => by.worker === one.worker && state === 'computing')
      const first = own.filter((other) => other.id !== this.#of.id || this.#parts.indexOf(other) < rank)
      return { ...one, busySeconds: first.reduce((sum, other) => sum + this.#of.secondsLeft(other), 0) }
    })
  }

  #part(run: string, worker: string): Part | undefined {
    return this.#parts.find(({ id, by }) => id === run && by.worker === worker)
  }

  #decodeLost(error: HeadraceError): AttemptFailed {
    return new AttemptFailed(this.#of.plan.decode, error)
  }
}

function gapsIn(payload: Uint8Array, plan: Plan): Gap[] {
  if (payload.byteLength % 12 !== 0) throw new HeadraceError('frame_bad_schema', 'gaps are not whole')
  const numbers = new Int32Array(payload.slice().buffer)
  const gaps: Gap[] = []
  for (let i = 0; i < numbers.length; i += 3) {
    const [start, end, layer] = [numbers[i]!, numbers[i + 1]!, numbers[i + 2]!]
    gaps.push(checkedGap({ start, end, layer }, plan))
  }
  return gaps
}

const gone = (worker: string): HeadraceError => new HeadraceError('worker_lost', `${worker} left before the run began`)

/** A link between two workers broke: whichever of them is gone, its own link to here tells soon enough. */
function coded(code: string, message: string): HeadraceError {
  const known: ErrorCode = code === 'link_closed' ? 'worker_lost' : isErrorCode(code) ? code : 'worker_failed'
  return new HeadraceError(known, message)
}
