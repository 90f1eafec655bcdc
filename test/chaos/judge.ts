import { median } from '../bench/harness/statistics.ts'
import type { Account, Asked, Outcome } from './client.ts'
import type { Done } from './storm.ts'

/** What a run of chaos was worth: everything that was told is compared with what would have been without it. Pure. */

/** What an ask is answered without faults, and how long that takes beside as many others. */
export interface Reference {
  readonly tokens: readonly string[]
  readonly text: string
  readonly seconds: number
}

export type Mistake = 'wrong' | 'repeated' | 'missing'

/** How `found` differs from what should have been: a part of it told twice, a part left out, or anything else. */
export function mistakeOf(expected: readonly string[], found: readonly string[]): Mistake | undefined {
  let same = 0
  while (same < expected.length && expected[same] === found[same]) same++
  if (same === expected.length && same === found.length) return undefined
  const rest = found.slice(same)
  const goesOnAt = (at: number): boolean =>
    at >= 0 &&
    at <= expected.length &&
    rest.length === expected.length - at &&
    rest.every((t, i) => t === expected[at + i])
  for (let k = 1; k <= same; k++) if (goesOnAt(same - k)) return 'repeated'
  for (let k = 1; k <= expected.length - same; k++) if (goesOnAt(same + k)) return 'missing'
  return 'wrong'
}

export interface Judged extends Asked {
  readonly mistake: Mistake | undefined
  /** Seconds beyond those of the same request without faults. */
  readonly added: number
  /** The faults that may have touched it. */
  readonly faults: readonly Done[]
}

export function judge(
  asked: readonly Asked[],
  references: ReadonlyMap<number, Reference>,
  done: readonly Done[],
): Judged[] {
  return asked.map((one) => {
    const reference = references.get(one.ask.id)!
    const { outcome } = one
    const mistake = outcome.kind === 'answered' ? mistakeIn(outcome, reference) : brokenOff(outcome, reference)
    return {
      ...one,
      mistake,
      added: one.to - one.from - reference.seconds,
      faults: done.filter((fault) => touched(one, fault)),
    }
  })
}

const mistakeIn = ({ tokens, text }: Reference | (Outcome & { kind: 'answered' }), reference: Reference) =>
  mistakeOf(reference.tokens, tokens) ?? (text === reference.text ? undefined : 'wrong')

/** What was told before the end must be the beginning of the right answer. */
const brokenOff = ({ tokens }: Outcome & { kind: 'lost' }, reference: Reference): Mistake | undefined =>
  mistakeOf(reference.tokens.slice(0, tokens.length), tokens)

/** It lasted into the request's time, and the worker that suffered had a part in the answer, as far as that is known. */
function touched({ outcome, from, to }: Asked, fault: Done): boolean {
  if (fault.from > to || fault.to < from) return false
  if (outcome.kind === 'lost') return true
  const { workers, decode, repairs = [], attempts = 1 } = outcome.account
  const names = [...workers.map(({ id }) => id), decode, ...repairs.map(({ worker }) => worker)]
  return names.includes(fault.fault.target) || attempts > 1
}

/** The time that faults of one name have added to the requests that they touched. */
export interface Added {
  readonly name: string
  readonly faults: number
  readonly touched: number
  /** Seconds; not a number where none was touched. */
  readonly median: number
  readonly p99: number
}

export function addedBy(name: string, judged: readonly Judged[], done: readonly Done[]): Added {
  const touched = judged.filter(
    ({ outcome, faults }) => outcome.kind === 'answered' && faults.some((f) => f.name === name),
  )
  const added = touched.map((one) => one.added).sort((a, b) => a - b)
  return {
    name,
    faults: done.filter((one) => one.name === name).length,
    touched: touched.length,
    median: median(added),
    p99: added[Math.max(0, Math.ceil(added.length * 0.99) - 1)] ?? Number.NaN,
  }
}

/** What a worker's death has cost a request: what it added, against the time that computing the lost part takes. */
export interface Death {
  readonly added: number
  readonly lostSeconds: number
}

/** How much more than the lost part's own time a repair may take: what must hold of the median. */
export const DEATH_FACTOR = 1.5
export const DEATH_SECONDS = 2

/** Of requests that a killed prefill worker had a part in when it died, as the cluster itself accounts for it. */
export function deathsIn(judged: readonly Judged[]): Death[] {
  return judged.flatMap(({ outcome, faults, added }) => {
    if (outcome.kind !== 'answered') return []
    const killed = new Set(faults.filter(({ name }) => name === 'kill prefill').map(({ fault }) => fault.target))
    const { repairs = [] } = outcome.account
    const lost = repairs.filter(({ worker, tokens }) => killed.has(worker) && tokens > 0)
    const perToken = secondsPerToken(outcome.account)
    if (lost.length === 0 || perToken === undefined) return []
    return [{ added, lostSeconds: perToken * lost.reduce((sum, { tokens }) => sum + tokens, 0) }]
  })
}

/** Of those that told how long they have computed: who died does not tell. */
function secondsPerToken({ workers }: Account): number | undefined {
  const told = workers.filter(({ compute_seconds: seconds }) => seconds !== undefined)
  const tokens = told.reduce((sum, one) => sum + one.tokens, 0)
  return tokens === 0 ? undefined : told.reduce((sum, one) => sum + one.compute_seconds!, 0) / tokens
}
