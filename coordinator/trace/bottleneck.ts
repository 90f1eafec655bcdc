import type { Plan } from '../../shared/plan.ts'
import type { WorkerReport } from '../../shared/protocol/run-types.ts'
import type { TraceSpan } from '../../shared/trace.ts'
import { seconds } from '../cli/table.ts'

/** What is known of a run when it has ended; spans are in seconds from the request's arrival, by worker. */
export interface RunFacts {
  readonly plan: Plan
  readonly queueSeconds: number
  readonly ttftSeconds: number
  readonly workers: readonly WorkerReport[]
  readonly spans: ReadonlyMap<string, readonly TraceSpan[]>
}

/** A stretch of time in which a worker stood still for KV of a layer. */
interface Wait {
  readonly layer: number
  readonly start: number
  readonly end: number
}

interface Share {
  readonly seconds: number
  readonly words: string
}

/**
 * What took the largest part of the time to the first token, in words. Pure.
 *
 * That time is cut into four: the queue; until the prefill worker that ended last had ended, its arithmetic and its
 * waiting; and what came after it, at the decode node. Waiting is nobody's own fault, so it is followed upstream.
 */
export function bottleneckOf(run: RunFacts): string {
  const { plan, queueSeconds, ttftSeconds } = run
  const total = ttftSeconds - queueSeconds
  const shares: Share[] = [
    { seconds: queueSeconds, words: `queue (${seconds(queueSeconds)} before the run began)` },
    ...prefillShares(run, total),
    ...decodeShares(run),
  ]
  const [first, ...others] = shares
  const largest = others.reduce((a, b) => (b.seconds > a.seconds ? b : a), first!)
  return largest.seconds > 0 ? largest.words : `the decode node's arithmetic at ${plan.decode}`
}

const isArithmetic = ({ kind }: TraceSpan): boolean => kind === 'project' || kind === 'attend' || kind === 'mix'

/** When each worker's arithmetic ended; `undefined` if nothing of it is known. */
function endOf({ spans }: RunFacts, worker: string): number | undefined {
  const ends = (spans.get(worker) ?? []).filter(isArithmetic).map(({ end }) => end)
  return ends.length === 0 ? undefined : ends.reduce((a, b) => Math.max(a, b))
}

const busySeconds = ({ computeSeconds, waitSeconds }: WorkerReport): number => computeSeconds + waitSeconds

function lastWorker(run: RunFacts): WorkerReport | undefined {
  const prefill = run.workers.filter(({ role }) => role === 'prefill')
  const end = (report: WorkerReport): number => endOf(run, report.worker) ?? busySeconds(report)
  return prefill.reduce<WorkerReport | undefined>((a, b) => (a === undefined || end(b) > end(a) ? b : a), undefined)
}

function prefillShares(run: RunFacts, total: number): Share[] {
  const last = lastWorker(run)
  if (last === undefined) return []
  const { worker, computeSeconds, waitSeconds } = last
  const own = { seconds: computeSeconds, words: `${worker}'s arithmetic (${share(computeSeconds, total)})` }
  if (waitSeconds <= computeSeconds) return [own]
  const [cause] = [...causes(run, worker)].sort(([, a], [, b]) => b - a)
  const what = cause?.[0] ?? 'KV on its way'
  return [own, { seconds: waitSeconds, words: `${what} (${worker} waited ${share(waitSeconds, total)})` }]
}

function decodeShares(run: RunFacts): Share[] {
  const { plan, ttftSeconds, spans, queueSeconds } = run
  const last = lastWorker(run)
  const since = last === undefined ? queueSeconds : (endOf(run, last.worker) ?? queueSeconds + busySeconds(last))
  const tail = Math.max(0, ttftSeconds - since)
  const window = [{ layer: 0, start: since, end: ttftSeconds }]
  const arithmetic = length(intersection((spans.get(plan.decode) ?? []).filter(isArithmetic), window))
  const handoff = tail - arithmetic
  const after = last === undefined ? 'before the first token' : 'after the last worker ended'
  return [
    { seconds: arithmetic, words: `the decode node's arithmetic (${seconds(arithmetic)} ${after})` },
    { seconds: handoff, words: `hand-off to ${plan.decode} (${seconds(handoff)} ${after})` },
  ]
}

/** Whom a worker's waits are owed to, with seconds. */
function causes(run: RunFacts, worker: string): Map<string, number> {
  const blame = new Map<string, number>()
  const waits = (run.spans.get(worker) ?? []).filter(({ kind }) => kind === 'wait').sort(byStart)
  follow(run, worker, waits, blame, run.plan.workers.length)
  return blame
}

/**
 * Splits the waits of `worker` at the moments when the KV was there to be sent: until its source had projected the layer
 * it was the source's doing (which may have waited itself), until the source had received what it passes on it was that
 * of the one before, and from then on the link's.
 */
function follow(
  run: RunFacts,
  worker: string,
  waits: readonly Wait[],
  blame: Map<string, number>,
  hopsLeft: number,
): void {
  const source = sourceOf(run.plan, worker)
  if (source === undefined || hopsLeft === 0 || waits.length === 0) return
  const spans = run.spans.get(source) ?? []
  const made = lastEnds(spans.filter(({ kind }) => kind === 'project'))
  const relayed = lastEnds(spans.filter(({ kind }) => kind === 'receive'))
  const onMaker: Wait[] = []
  const onRelay: Wait[] = []
  let onLink = 0
  for (const { layer, start, end } of waits) {
    const madeAt = clamp(made.get(layer) ?? start, start, end)
    const relayedAt = clamp(relayed.get(layer) ?? start, madeAt, end)
    onMaker.push({ layer, start, end: madeAt })
    onRelay.push({ layer, start: madeAt, end: relayedAt })
    onLink += end - relayedAt
  }
  add(blame, `link ${source} to ${worker}`, onLink)
  const stood = intersection(spans.filter(({ kind }) => kind === 'wait').sort(byStart), onMaker)
  add(blame, `${source}'s arithmetic`, length(onMaker) - length(stood))
  follow(run, source, [...stood, ...onRelay].sort(byStart), blame, hopsLeft - 1)
}

/** Who sends to `worker`: the one before it in a chain, or round the ring. */
function sourceOf({ strategy, workers }: Plan, worker: string): string | undefined {
  const rank = workers.findIndex((candidate) => candidate.worker === worker)
  if (rank < 0 || workers.length < 2) return undefined
  if (strategy === 'ring') return workers.at(rank - 1)?.worker
  return rank === 0 ? undefined : workers[rank - 1]?.worker
}

function lastEnds(spans: readonly TraceSpan[]): Map<number, number> {
  const ends = new Map<number, number>()
  for (const { layer, end } of spans) ends.set(layer, Math.max(end, ends.get(layer) ?? end))
  return ends
}

/** The parts of `of` that lie within `windows`. Both are in order of time and neither overlaps itself. */
function intersection(of: readonly Wait[], windows: readonly Wait[]): Wait[] {
  const parts: Wait[] = []
  let at = 0
  for (const { layer, start, end } of of) {
    while (at < windows.length && windows[at]!.end <= start) at++
    for (let i = at; i < windows.length && windows[i]!.start < end; i++) {
      const part = { layer, start: Math.max(start, windows[i]!.start), end: Math.min(end, windows[i]!.end) }
      if (part.end > part.start) parts.push(part)
    }
  }
  return parts
}

const byStart = (a: Wait, b: Wait): number => a.start - b.start

const length = (waits: readonly { start: number; end: number }[]): number =>
  waits.reduce((sum, { start, end }) => sum + end - start, 0)

const clamp = (value: number, least: number, most: number): number => Math.min(Math.max(value, least), most)

function add(blame: Map<string, number>, what: string, amount: number): void {
  if (amount > 0) blame.set(what, (blame.get(what) ?? 0) + amount)
}

const share = (part: number, total: number): string => `${seconds(part)} of ${seconds(total)}`
