import { spansText } from '../../../coordinator/cli/table.ts'
import { type Account, accountOf } from './account.ts'
import { QUIET_CORES } from './quiet.ts'
import { columns, percent, type ReportPart, spreadText } from './report.ts'
import { median, speedUps, spreadOf, sum } from './statistics.ts'
import type { Trial } from './trials.ts'

/** What the trials of `split` say, a row for each candidate. The first group is solo, which the others are compared with. */

/** The trials of one candidate, round by round. */
export type Group = readonly Trial[]

const ttfts = (runs: Group): number[] => runs.map(({ asked }) => asked.ttftSeconds)

/**
 * Medians over the rounds of one candidate. Parallel efficiency is against one worker's time while the other cores were
 * as busy (`beside`), where that was measured: all cores share caches and memory, which splitting cannot change.
 */
export function summary(runs: Group, solo: Group, beside: Group = solo) {
  const workers = runs[0]!.asked.prefill.workers.length
  const faster = speedUps(ttfts(solo), ttfts(runs))
  const reported = runs.map(({ asked }) => asked.prefill.ttft_seconds)
  const predicted = runs.map(({ asked }) => asked.prefill.predicted_ttft_seconds)
  return {
    label: runs[0]!.label,
    workers,
    ttft: spreadOf(runs.map(({ asked }) => asked.ttftSeconds)),
    reported: spreadOf(reported),
    predicted: spreadOf(predicted),
    /** Above 1: it took longer than predicted. */
    measuredByPredicted: spreadOf(reported.map((seconds, i) => seconds / predicted[i]!)),
    speedUp: spreadOf(faster),
    efficiency: median(speedUps(ttfts(beside), ttfts(runs))) / workers,
    waitShare: spreadOf(runs.map(waitShare)),
    otherCores: spreadOf(runs.map(foreignCores)),
  }
}

export const foreignCores = ({ load }: Trial): number => load.otherCores + load.stolenCores

/** Noise only ever adds time. So what nobody disturbed, or else the least of all, is nearest to a machine of one's own. */
export function quietLine(found: readonly ReturnType<typeof summary>[], groups: readonly Group[]): ReportPart {
  const seconds = (runs: Group): number[] => runs.map(({ asked }) => asked.ttftSeconds)
  const quiet = groups.map((runs) => seconds(runs.filter((run) => foreignCores(run) < QUIET_CORES)))
  const least = (i: number): number => found[0]!.ttft.min / found[i]!.ttft.min
  const texts = found.map(({ label }, i) => {
    const own = quiet[i]!
    const both = `${(median(quiet[0]!) / median(own)).toFixed(2)}x by the medians of these`
    const undisturbed = `${own.length} undisturbed, median ${median(own).toFixed(2)} s`
    return i === 0
      ? `${label} ${undisturbed}`
      : `${label} ${undisturbed}: ${both}, ${least(i).toFixed(2)}x by the least`
  })
  return { line: `Runs during which others used less than ${QUIET_CORES} cores: ${texts.join('; ')}.` }
}

/** Exposed communication: of the time that workers spent on the run, how much they stood still for want of a block. */
function waitShare({ asked }: Trial): number {
  const waits = asked.prefill.workers.map(({ wait_seconds }) => wait_seconds ?? 0)
  const computes = asked.prefill.workers.map(({ compute_seconds }) => compute_seconds ?? 0)
  return sum(waits) / Math.max(sum(waits) + sum(computes), 1e-9)
}

export const ttftTable = (found: readonly ReturnType<typeof summary>[]): ReportPart => ({
  title: 'Time to first token in seconds: median (least-most)',
  head: columns(
    'plan, workers, at the client, reported, predicted, measured/predicted, speed-up, efficiency, wait share, cores used by others',
  ),
  rows: found.map((one) => [
    one.label,
    String(one.workers),
    spreadText(one.ttft),
    spreadText(one.reported),
    one.predicted.median.toFixed(2),
    spreadText(one.measuredByPredicted),
    spreadText(one.speedUp),
    percent(one.efficiency),
    percent(one.waitShare.median),
    spreadText(one.otherCores),
  ]),
})

/** Medians of parts add up only nearly to the median of the whole. */
export function accountTable(groups: readonly Group[]): ReportPart {
  const accounts = groups.map((runs) => runs.map(({ asked, load }) => accountOf(asked, load)))
  const solo = median(accounts[0]!.map(({ allArithmeticSeconds }) => allArithmeticSeconds))
  const middle = (of: readonly Account[], part: (account: Account) => number): string => median(of.map(part)).toFixed(2)
  return {
    title: 'Where it went, by the worker that ended last: medians in seconds',
    head: columns(
      'plan, first token, arithmetic, core given to others, wait, before and after, arithmetic of all, against solo, busiest/even share, coordinator and decode node',
    ),
    rows: accounts.map((of, i) => [
      groups[i]![0]!.label,
      middle(of, (account) => account.ttftSeconds),
      middle(of, (account) => account.arithmeticSeconds),
      middle(of, (account) => account.displacedSeconds),
      middle(of, (account) => account.waitSeconds),
      middle(of, (account) => account.outsideSeconds),
      middle(of, (account) => account.allArithmeticSeconds),
      middle(of, (account) => account.allArithmeticSeconds / solo),
      middle(of, (account) => account.imbalance),
      middle(of, (account) => account.helperSeconds),
    ]),
  }
}

export const workersTable = (groups: readonly Group[]): ReportPart => ({
  title:
    'Each worker, medians in seconds. "on core": CPU time of the arithmetic and of the sockets; ' +
    '"in queue": ready, but the core was given to another thread or program',
  head: columns(
    'plan, worker, spans, tokens, compute, wait, send, on core: arithmetic, sockets, other, in queue: arithmetic, us of core a token',
  ),
  rows: groups.flatMap((runs) => [...new Set(runs.flatMap(workerIds))].sort().map((id) => workerRow(runs, id))),
})

const workerIds = ({ asked }: Trial): string[] => asked.prefill.workers.map(({ id }) => id)

/** One worker over the rounds of one strategy. Spans are those of the last round: measured runs move them a little. */
function workerRow(runs: Group, id: string): string[] {
  const own = runs.filter((run) => workerIds(run).includes(id))
  const parts = own.map(({ asked }) => asked.prefill.workers.find((worker) => worker.id === id)!)
  const cpus = own.map(({ load }) => load.cpu[id]!)
  const last = parts.at(-1)!
  const seconds = (values: readonly number[]): string => median(values).toFixed(2)
  return [
    own[0]!.label,
    id,
    spansText(last.spans),
    String(median(parts.map(({ tokens }) => tokens))),
    seconds(parts.map((part) => part.compute_seconds ?? 0)),
    seconds(parts.map((part) => part.wait_seconds ?? 0)),
    seconds(parts.map((part) => part.send_seconds ?? 0)),
    seconds(cpus.map(({ busiest }) => busiest.seconds)),
    seconds(cpus.map(({ main }) => main.seconds)),
    seconds(cpus.map(({ all, main, busiest }) => all.seconds - main.seconds - busiest.seconds)),
    seconds(cpus.map(({ busiest }) => busiest.queuedSeconds)),
    median(cpus.map(({ busiest }, i) => (busiest.seconds / parts[i]!.tokens) * 1e6)).toFixed(0),
  ]
}
