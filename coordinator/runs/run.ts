import type { Clock } from '../../shared/clock.ts'
import type { RunId } from '../../shared/ids.ts'
import { type Plan, spanTokens } from '../../shared/plan.ts'
import type { Precision } from '../../shared/precision.ts'
import type { FinishReason, WorkerReport } from '../../shared/protocol/run-types.ts'
import type { ClockOffset } from '../trace/alignment.ts'
import { bottleneckOf } from '../trace/bottleneck.ts'
import { RunTracer, spansOf } from '../trace/run-trace.ts'
import type { Turn } from './admission.ts'
import { dispatch, type WorkerNews, type Workers } from './dispatch.ts'
import type { RunEvent, RunReport, RunRequest } from './events.ts'
import type { Progress } from './progress.ts'

export interface RunDeps {
  /** Waits for the run's turn. */
  readonly admit: (run: RunId, request: RunRequest, signal: AbortSignal) => Promise<Turn>
  readonly progress: Progress
  readonly workers: Workers
  readonly layers: number
  /** Facts of this moment to a plan (`coordinator/planning`). */
  readonly planNow: (request: RunRequest) => Plan
  /** The workers of a plan are busy with the run until the returned function is called, for one of them or for all. */
  readonly occupy: (run: RunId, plan: Plan) => (worker?: string) => void
  /** How a worker's clock stands to `clock`, once a ping has told. */
  readonly offsetOf: (worker: string) => ClockOffset | undefined
  /** What a worker's numbers are true to. */
  readonly precisionOf: (worker: string) => Precision
  readonly clock: Clock
}

/**
 * The life of a request, steps 3 to 9 of DESIGN section 2. (1 and 2, HTTP and tokenizer, have made the request.)
 * Leaving the generator, or aborting `signal`, undoes all of it on every worker.
 */
export async function* runRequest(
  run: RunId,
  request: RunRequest,
  deps: RunDeps,
  signal: AbortSignal,
): AsyncGenerator<RunEvent, void> {
  const { clock } = deps
  const arrived = clock.now()
  const tracer = new RunTracer(clock, arrived, deps.offsetOf)

  // 3. Admit: wait for a turn, short prompts first.
  const turn = await deps.admit(run, request, signal)
  const queueSeconds = clock.now() - arrived
  let leave = (_worker?: string): void => undefined
  let unwatch = (): void => undefined
  try {
    // 4. Plan, from the facts of this moment.
    const plan = deps.planNow(request)
    leave = deps.occupy(run, plan)
    // Now: by the end of the run one of them may be gone.
    const precisions = precisionsOf(plan, deps.precisionOf)
    tracer.reached('planned')
    yield { kind: 'planned', run, plan, queueSeconds }

    // 5. Send one assignment to each worker. 6. They run the layers; 7. their KV reaches the decode node meanwhile.
    const watch = deps.progress.watch(run, stallSeconds(plan, deps.layers))
    unwatch = watch.done
    const follow = new Following(plan, deps.layers, clock, arrived)
    tracer.reached('assigned')
    for await (const news of dispatch(run, plan, request, deps.workers, { clock, watch }, signal)) {
      // 8. The decode node has every block: the next prompt may start its prefill.
      if (news.event.kind === 'kv_assembled') turn.prefilled()
      if (news.event.kind === 'token_sampled') watch.answers()
      if (news.event.kind === 'finished') leave(news.worker)
      tracer.note(news)
      // 9. Progress and tokens go back to the client.
      const event = follow.event(news)
      if (event !== undefined) yield event
    }
    tracer.reached('finished')
    const report = { run, plan, precisions, queueSeconds, cachedTokens: 0, ...follow.totals() }
    yield { kind: 'finished', reason: follow.reason, report: withTrace(report, tracer) }
  } finally {
    unwatch()
    leave()
    turn.done()
  }
}

function precisionsOf({ workers, decode }: Plan, of: RunDeps['precisionOf']): RunReport['precisions'] {
  const all = [...workers.map(({ worker }) => worker), decode]
  return Object.fromEntries(all.map((worker) => [worker, of(worker)]))
}

function withTrace(report: Omit<RunReport, 'bottleneck' | 'trace'>, tracer: RunTracer): RunReport {
  const trace = tracer.trace()
  const spans = new Map(trace.workers.map((worker) => [worker.worker, spansOf(worker)]))
  return { ...report, bottleneck: bottleneckOf({ ...report, spans }), trace }
}

/** Workers report every layer, so several layers' time without a word is a stall; below a minute it may be a busy host. */
const stallSeconds = ({ predictedTtftSeconds }: Plan, layers: number): number =>
  Math.max(LEAST_STALL_SECONDS, (STALL_LAYERS * predictedTtftSeconds) / layers)

const LEAST_STALL_SECONDS = 60
const STALL_LAYERS = 10

/** Turns what workers say into what a client hears, and adds up the report. */
class Following {
  reason: FinishReason = 'length'
  readonly #plan: Plan
  readonly #layers: number
  readonly #clock: Clock
  readonly #arrived: number
  readonly #tokensOf: ReadonlyMap<string, number>
  readonly #reports: WorkerReport[] = []
  #layerTokens = 0
  #completionTokens = 0
  #firstToken: number | undefined
  #lastToken = 0

  constructor(plan: Plan, layers: number, clock: Clock, arrived: number) {
    this.#plan = plan
    this.#layers = layers
    this.#clock = clock
    this.#arrived = arrived
    this.#tokensOf = new Map<string, number>([
      ...plan.workers.map(({ worker, spans }) => [worker, spanTokens(spans)] as const),
      [plan.decode, plan.promptTokens - plan.prefillTokens],
    ])
  }

  event({ worker, event, payload }: WorkerNews): RunEvent | undefined {
    const seconds = this.#clock.now() - this.#arrived
    switch (event.kind) {
      case 'layer_finished': {
        this.#layerTokens += this.#tokensOf.get(worker) ?? 0
        const processed = Math.floor(this.#layerTokens / this.#layers)
        return { kind: 'progress', processed, total: this.#plan.promptTokens, seconds }
      }
      case 'kv_assembled':
        return { kind: 'prefilled', seconds }
      case 'logits_computed':
        return { kind: 'logits', logits: new Float32Array(payload.slice().buffer) }
      case 'token_sampled': {
        this.#completionTokens++
        this.#firstToken ??= seconds
        this.#lastToken = seconds
        const { index, token, logprob } = event
        return { kind: 'token', index, token, ...(logprob && { logprob }) }
      }
      case 'finished':
        this.#reports.push(event.report)
        if (event.reason !== undefined) this.reason = event.reason
        return undefined
      default:
        return undefined
    }
  }

  totals() {
    const ttftSeconds = this.#firstToken ?? 0
    return {
      ttftSeconds,
      decodeSeconds: this.#lastToken - ttftSeconds,
      promptTokens: this.#plan.promptTokens,
      completionTokens: this.#completionTokens,
      workers: this.#reports,
    }
  }
}
