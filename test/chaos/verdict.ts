import { median } from '../bench/harness/statistics.ts'
import type { ChaosResult } from './chaos.ts'
import type { Account } from './client.ts'
import { FAULT_NAMES } from './faults.ts'
import { addedBy, DEATH_FACTOR, DEATH_SECONDS, deathsIn, type Judged } from './judge.ts'

/** What came of it, in words, and whether that is good. Pure. */

/** What may remain of a process that has been busy: caches of code and of shapes, pages that the allocator keeps. */
const MOST_GROWTH = 1.5
const MOST_GROWN_BYTES = 96 * 2 ** 20
const MOST_MORE_DESCRIPTORS = 16

export interface Verdict {
  readonly good: boolean
  readonly text: string
}

export function verdictOf(result: ChaosResult): Verdict {
  const { judged, done, unsteady, crashes, recovered, quiet, afterwards } = result
  const lost = judged.filter(({ outcome }) => outcome.kind === 'lost')
  const count = (mistake: string, of = judged): number => of.filter((one) => one.mistake === mistake).length
  const bad = judged.filter(({ mistake }) => mistake !== undefined)
  const badAfter = afterwards.filter(({ mistake, outcome }) => mistake !== undefined || outcome.kind === 'lost')
  const grown = growth(result)
  const deaths = deathsIn(judged)
  const late = deaths.map(({ added, lostSeconds }) => added - DEATH_FACTOR * lostSeconds - DEATH_SECONDS)
  const lines = [
    `requests ${judged.length}, faults ${done.length}, prompts left out as undecided by rounding ${unsteady}`,
    `wrong answers ${bad.length} (${count('wrong')} other tokens, ${count('repeated')} repeated, ${count('missing')} missing)`,
    `lost requests ${lost.length}${codes(lost)}`,
    `asked for patience (429, 503) ${judged.reduce((sum, { retries }) => sum + retries, 0)} times`,
    `after the storm: ${recovered ? 'all workers back' : 'NOT all workers back'}, ${quiet ? 'no run left' : 'RUNS LEFT'}, ` +
      `${afterwards.length - badAfter.length} of ${afterwards.length} answers right`,
    `processes that ended by themselves: ${counted(crashes) || 'none'}`,
    ...[...new Set([...bad, ...lost, ...badAfter])].map(detail),
    '',
    ...addedTable(result),
    '',
    deaths.length === 0
      ? 'no repair of a killed worker in any account'
      : `deaths of prefill workers in ${deaths.length} requests: median added ${seconds(median(deaths.map(({ added }) => added)))}, ` +
        `lost part ${seconds(median(deaths.map(({ lostSeconds }) => lostSeconds)))}, ` +
        `beyond ${DEATH_FACTOR} x lost part + ${DEATH_SECONDS} s: ${seconds(median(late))} (must not be above 0)`,
    '',
    ...grown.lines,
  ]
  const slow = deaths.length > 0 && median(late) > 0
  const good =
    bad.length + lost.length + badAfter.length + crashes.length === 0 && recovered && quiet && !grown.leaks && !slow
  return { good, text: lines.join('\n') }
}

/** What to look for in the logs. */
function detail({ ask, outcome, mistake, from, to, faults }: Judged): string {
  const how = outcome.kind === 'lost' ? `lost, ${outcome.code}: ${outcome.message}` : runOf(outcome.account)
  const what = `  ask ${ask.id} (${ask.stream ? 'stream' : 'whole'}), ${seconds(to - from)}, ${mistake ?? 'no token wrong'}`
  const touched = faults.map(({ name, fault }) => `${name} (${fault.target})`).join(', ')
  return `${what}, ${outcome.tokens.length} tokens; ${how}; faults: ${touched || 'none'}`
}

function runOf({ run, attempts = 1, repairs = [] }: Account): string {
  const made = repairs.map(({ worker, code }) => `${worker} ${code}`).join(', ')
  return `run ${run}, ${attempts} attempts, repairs: ${made || 'none'}`
}

function codes(lost: readonly Judged[]): string {
  const list = counted(lost.flatMap(({ outcome }) => (outcome.kind === 'lost' ? [outcome.code] : [])))
  return list === '' ? '' : ` (${list})`
}

/** Each of them once, with how often it comes. */
function counted(names: readonly string[]): string {
  const counts = new Map<string, number>()
  for (const name of names) counts.set(name, (counts.get(name) ?? 0) + 1)
  return [...counts].map(([name, n]) => `${name} ${n}`).join(', ')
}

const seconds = (value: number): string => (Number.isNaN(value) ? '-' : `${value.toFixed(2)} s`)

const row = (cells: readonly string[]): string =>
  cells.map((cell, i) => (i === 0 ? cell.padEnd(32) : cell.padStart(14))).join('')

function addedTable({ judged, done }: ChaosResult): string[] {
  const head = row(['fault', 'done', 'requests', 'added, median', 'p99'])
  const rows = FAULT_NAMES.map((name) => {
    const { faults, touched, median: middle, p99 } = addedBy(name, judged, done)
    return row([name, String(faults), String(touched), seconds(middle), seconds(p99)])
  })
  return [head, ...rows]
}

function growth({ before, after }: ChaosResult): { lines: string[]; leaks: boolean } {
  let leaks = false
  const lines = after.map(({ name, pid, residentBytes, descriptors }) => {
    const old = before.find((one) => one.name === name)
    const mib = (bytes = 0): string => `${(bytes / 2 ** 20).toFixed(0)} MiB`
    const oldBytes = old?.residentBytes ?? residentBytes
    const leak =
      residentBytes > Math.max(oldBytes * MOST_GROWTH, oldBytes + MOST_GROWN_BYTES) ||
      descriptors > (old?.descriptors ?? descriptors) + MOST_MORE_DESCRIPTORS
    leaks ||= leak
    const again = old?.pid === pid ? '' : 'restarted'
    const files = `${old?.descriptors} to ${descriptors}`
    return row([name, `${mib(old?.residentBytes)} to`, mib(residentBytes), files, leak ? 'LEAK' : again])
  })
  return { lines: [row(['process', 'resident before', 'after', 'descriptors', '']), ...lines], leaks }
}
