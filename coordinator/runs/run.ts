import type { Clock } from '../../shared/clock.ts'
import type { RunId, WorkerId } from '../../shared/ids.ts'
import { isResumed, type Plan } from '../../shared/plan.ts'
import type { Precision } from '../../shared/precision.ts'
import type { Repairer } from '../planning/repair.ts'
import type { ClockOffset } from '../trace/alignment.ts'
import { bottleneckOf } from '../trace/bottleneck.ts'
import { RunTracer, spansOf } from '../trace/run-trace.ts'
import type { Turn } from './admission.ts'
import { AttemptFailed, type AttemptOptions, attemptRun } from './attempt.ts'
import type { RunEvent, RunReport, RunRequest } from './events.ts'
import { Following } from './following.ts'
import type { WorkerNews } from './news.ts'
import type { Occupied } from './occupancy.ts'
import type { Part } from './parts.ts'
import type { Progress } from './progress.ts'
import type { Workers } from './workers.ts'

export interface RunDeps {
  /** Waits for the run's turn. */
  readonly admit: (run: RunId, request: RunRequest, signal: AbortSignal) => Promise<Turn>
  readonly progress: Progress
  readonly workers: Workers
  readonly layers: number
  /** Facts of this moment to a plan (`coordinator/planning`), once there is room: whatever a decode node has kept is used. */
  readonly planNow: (run: RunId, request: RunRequest, signal: AbortSignal) => Promise<Occupied>
  /** All anew, without those that are `excluded` if possible, once the cluster can compute the prompt again; or the coded error if it cannot soon. */
  readonly planAgain: (
    run: RunId,
    request: RunRequest,
    excluded: ReadonlySet<string>,
    signal: AbortSignal,
  ) => Promise<Occupied>
  readonly repairers: (excluded: ReadonlySet<string>, decode: WorkerId) => readonly Omit<Repairer, 'busySeconds'>[]
  readonly occupyPart: (part: Part) => () => void
  readonly secondsLeft: (part: Part) => number
  /** What the decode node of a plan is to compute again, drawn in secret, and who hears what came of it. */
  readonly selfCheck: (plan: Plan) => Pick<AttemptOptions, 'checks' | 'onChecked'>
  /** How a worker's clock stands to `clock`, once a ping has told. */
  readonly offsetOf: (worker: string) => ClockOffset | undefined
  /** What a worker's numbers are true to. */
  readonly precisionOf: (worker: string) => Precision
  readonly clock: Clock
}

/** Attempts of a run that have not told a token. A cluster that loses so many decode nodes on end does not get on. */
const MOST_FRUITLESS = 10

/**
 * The life of a request, steps 3 to 9 of DESIGN section 2. (1 and 2, HTTP and tokenizer, have made the request.) A
 * prefill worker that fails is made up for inside an attempt; a decode node that fails takes what was computed with it,
 * so the next attempt goes on from the last token told. Leaving the generator, or aborting `signal`, undoes all of it on
 * every worker.
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
  const follow = new Following(request, clock, arrived)
  const failed = new Set<string>()

  // 3. Admit: wait for a turn, short prompts first.
  const turn = await deps.admit(run, request, signal)
  let leave: Occupied['leave'] = () => undefined
  try {
    // 4. Plan, from the facts of this moment.
    const taken = (occupied: Occupied): Plan => {
      leave = occupied.leave
      turn.planned(occupied.part)
      return occupied.plan
    }
    let plan = taken(await deps.planNow(run, request, signal))
    const queueSeconds = clock.now() - arrived
    // Now: by the end of the run one of them may be gone.
    let precisions = precisionsOf(plan, deps.precisionOf)
    tracer.reached('planned')
    yield { kind: 'planned', run, plan, queueSeconds }
    let attempt = 1
    let [fruitless, told] = [0, 0]
    for (; ; attempt++) {
      try {
        // 5. Send one assignment to each worker. 6. They run the layers; 7. their KV reaches the decode node meanwhile.
        tracer.reached('assigned')
        const id = `${run}.${attempt}`
        for await (const news of sendOut({ run, id, plan, request: follow.remaining(), follow }, deps, signal)) {
          // 8. The decode node has every block: the next prompt may start its prefill.
          if (news.event.kind === 'kv_assembled') turn.prefilled()
          if (news.event.kind === 'finished' && news.event.run === id) leave(news.worker)
          tracer.note(news)
          // 9. Progress and tokens go back to the client.
          const event = follow.event(news, deps.layers)
          if (event !== undefined) yield event
        }
        break
      } catch (thrown) {
        if (!(thrown instanceof AttemptFailed)) throw thrown
        const { worker, cause } = thrown
        fruitless = follow.tokens.length > told ? 1 : fruitless + 1
        told = follow.tokens.length
        if (fruitless > MOST_FRUITLESS) throw cause
        // Who has not kept the KV that was counted on has not failed.
        if (cause.code !== 'kv_gone') failed.add(worker)
        follow.repaired({ worker, code: cause.code, tokens: plan.promptTokens, at: clock.now() })
        if (follow.complete) break
        yield { kind: 'failed_over', from: worker, code: cause.code, attempt: attempt + 1 }
        leave()
        plan = taken(await deps.planAgain(run, follow.remaining(), failed, signal))
        precisions = { ...precisions, ...precisionsOf(plan, deps.precisionOf) }
      }
    }
    tracer.reached('finished')
    const cachedTokens = isResumed(plan) ? request.promptTokens.length : 0
    const report = { run, plan, precisions, queueSeconds, cachedTokens, attempts: attempt, ...follow.totals() }
    yield { kind: 'finished', reason: follow.reason, report: withTrace(report, tracer) }
  } finally {
    leave()
    turn.done()
  }
}

interface Sending {
  readonly run: RunId
  /** Its name on the wire. */
  readonly id: string
  readonly plan: Plan
  readonly request: RunRequest
  readonly follow: Following
}

/** One attempt of a run, watched for as long as it lasts. */
async function* sendOut(of: Sending, deps: RunDeps, signal: AbortSignal): AsyncGenerator<WorkerNews, void> {
  const { run, id, plan, request, follow } = of
  const { layers, workers, clock, secondsLeft } = deps
  const watch = deps.progress.watch(run, stallSeconds(plan, layers))
  follow.begin(plan)
  try {
    const attempt: AttemptOptions = {
      id,
      plan,
      request,
      layers,
      workers,
      clock,
      watch,
      repairers: (excluded) => deps.repairers(excluded, plan.decode),
      occupy: deps.occupyPart,
      secondsLeft,
      onRepair: (repair) => follow.repaired(repair),
      ...deps.selfCheck(plan),
    }
    for await (const news of attemptRun(attempt, signal)) {
      if (news.event.kind === 'token_sampled') watch.answers()
      yield news
    }
  } finally {
    watch.done()
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

/** Workers report every layer, so several layers' time without a word is a stall; below this it may be a busy host. */
const stallSeconds = ({ predictedTtftSeconds }: Plan, layers: number): number =>
  Math.max(LEAST_STALL_SECONDS, (STALL_LAYERS * predictedTtftSeconds) / layers)

const LEAST_STALL_SECONDS = 8
const STALL_LAYERS = 6
