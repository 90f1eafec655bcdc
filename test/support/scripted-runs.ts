import type { ClusterView, RunEvent, RunReport, RunRequest, Runs } from '../../coordinator/runs/events.ts'
import { abortError, type HeadraceError } from '../../shared/errors.ts'
import { asRunId, asWorkerId } from '../../shared/ids.ts'
import type { Plan } from '../../shared/plan.ts'
import type { TokenLogprob } from '../../shared/protocol/run-types.ts'

/** What a run shall do, told by a test. */
export type Script = (request: RunRequest, signal: AbortSignal) => AsyncGenerator<RunEvent, void>

/** A cluster that does what a test wrote down, and remembers what it was asked. */
export class ScriptedRuns implements Runs {
  script: Script
  notReady: HeadraceError | undefined
  planError: HeadraceError | undefined
  readonly requests: RunRequest[] = []
  readonly signals: AbortSignal[] = []
  /** How many runs were left before their end. */
  leftEarly = 0

  constructor(script: Script) {
    this.script = script
  }

  async *run(request: RunRequest, signal: AbortSignal): AsyncGenerator<RunEvent, void> {
    this.requests.push(request)
    this.signals.push(signal)
    let ended = false
    try {
      for await (const event of this.script(request, signal)) {
        ended = event.kind === 'finished'
        yield event
      }
    } finally {
      if (!ended) this.leftEarly += 1
    }
  }

  plan(promptTokens: number): { chosen: Plan; candidates: readonly Plan[] } {
    if (this.planError !== undefined) throw this.planError
    const chosen = chainPlan(promptTokens)
    return { chosen, candidates: [chosen, soloPlan(promptTokens)] }
  }

  unready(): HeadraceError | undefined {
    return this.notReady
  }

  cluster(): ClusterView {
    return CLUSTER
  }
}

/** A run that writes `tokens` and ends. `scored` gives each a log-probability. */
export function writes(
  tokens: readonly number[],
  { reason = 'stop' as const, scored }: { reason?: 'stop' | 'length'; scored?: (token: number) => TokenLogprob } = {},
): Script {
  return async function* (request) {
    const plan = chainPlan(request.promptTokens.length)
    yield { kind: 'planned', run: RUN, plan, queueSeconds: 0.5 }
    for (const processed of [1, plan.prefillTokens])
      yield { kind: 'progress', processed, total: plan.prefillTokens, seconds: processed / 1000 }
    yield { kind: 'prefilled', seconds: 2 }
    for (const [index, token] of tokens.entries())
      yield { kind: 'token', index, token, ...(scored === undefined ? {} : { logprob: scored(token) }) }
    yield { kind: 'finished', reason, report: reportOf(plan, tokens.length) }
  }
}

/** A run that says what `events` say, then waits until it is cancelled. */
export function hangsAfter(...events: RunEvent[]): Script {
  return async function* (_request, signal) {
    yield* events
    await new Promise<never>((_resolve, reject) => {
      const leave = () => reject(abortError(signal))
      if (signal.aborted) leave()
      else signal.addEventListener('abort', leave, { once: true })
    })
  }
}

export function failsAfter(error: unknown, ...events: RunEvent[]): Script {
  return async function* () {
    yield* events
    throw error
  }
}

const RUN = asRunId('run-1')

export const planned = (promptTokens: number): RunEvent => ({
  kind: 'planned',
  run: RUN,
  plan: chainPlan(promptTokens),
  queueSeconds: 0.5,
})

/** Two workers for a prompt of two tokens or more; none for one, which the decode node computes alone. */
export function chainPlan(promptTokens: number): Plan {
  const prefillTokens = promptTokens - 1
  const half = Math.ceil(prefillTokens / 2)
  const spans = [
    { start: 0, end: half },
    { start: half, end: prefillTokens },
  ].filter(({ start, end }) => end > start)
  return {
    ...soloPlan(promptTokens),
    strategy: 'chain',
    workers: spans.map((span, at) => ({ ...RAW, worker: asWorkerId(`w${at + 1}`), spans: [span], computeSeconds: 1 })),
    predictedTtftSeconds: 1.4,
  }
}

const RAW = { prefixWire: 'f32', handoffWire: 'f32' } as const

function soloPlan(promptTokens: number): Plan {
  return {
    strategy: 'solo',
    promptTokens,
    prefillTokens: promptTokens - 1,
    workers: [{ ...RAW, worker: asWorkerId('w1'), spans: [{ start: 0, end: promptTokens - 1 }], computeSeconds: 2.5 }],
    decode: asWorkerId('d1'),
    blockTokens: 256,
    predictedTtftSeconds: 2.6,
    bound: 'compute',
    boundBy: 'w1 computes',
  }
}

export function reportOf(plan: Plan, completionTokens: number): RunReport {
  return {
    run: RUN,
    plan,
    precisions: { w1: 'f32', w2: 'int8', d1: 'f32' },
    queueSeconds: 0.5,
    ttftSeconds: 2.5,
    decodeSeconds: 0.25,
    promptTokens: plan.promptTokens,
    cachedTokens: 0,
    attempts: 1,
    repairs: [],
    completionTokens,
    bottleneck: "w2's arithmetic (2.00 s of 2.00 s)",
    trace: { milestones: [{ name: 'queued', seconds: 0 }], workers: [] },
    workers: plan.workers.map(({ worker, spans }, at) => ({
      worker,
      role: 'prefill',
      tokens: spans.reduce((sum, { start, end }) => sum + end - start, 0),
      computeSeconds: 1 + at,
      attendSeconds: 0.5,
      waitSeconds: 0.1,
      sendSeconds: 0.05,
      sent: [{ to: plan.workers[at + 1]?.worker ?? 'd1', bytes: 1000 }],
    })),
  }
}

const CLUSTER: ClusterView = {
  workers: [
    {
      id: 'w1',
      role: 'prefill',
      state: 'ready',
      precision: 'f32',
      engine: 'reference',
      host: 'h1',
      cores: 4,
      threads: 2,
      memoryBytes: 2 ** 30,
      budgetBytes: 2 ** 29,
      freeBytes: 2 ** 28,
      cost: { o: 0, a: 1 / 4096, b: 0 },
      rttSeconds: 0.001,
      lastSeenSeconds: 0.2,
      runs: 1,
    },
    {
      id: 'd1',
      role: 'decode',
      state: 'ready',
      engine: 'reference',
      host: 'h2',
      cores: 2,
      threads: 2,
      memoryBytes: 2 ** 30,
      budgetBytes: 2 ** 29,
      freeBytes: 2 ** 28,
      lastSeenSeconds: 0.1,
      runs: 0,
    },
  ],
  links: [{ from: 'w1', to: 'd1', bytesPerSecond: 1e9, rttSeconds: 0.0005, ageSeconds: 30 }],
  runs: { running: 1, waiting: 2 },
}
