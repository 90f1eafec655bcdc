import { setImmediate as turn } from 'node:timers/promises'
import { drawOptions, type Options } from './options.ts'
import { type Outcome, simulate } from './simulation.ts'
import type { Planted } from './world.ts'

/** Many simulations, and what all of them saw. */
export interface Totals {
  seeds: number
  events: number
  virtualSeconds: number
  readonly faults: Map<string, number>
  /** Of requests as they were sent: one that is sent again counts again. */
  readonly endings: Map<string, number>
  /** In how many simulations. */
  readonly seen: Map<string, number>
  readonly failed: Outcome[]
}

/** One of so many seeds is simulated twice: both must be the same to the last event. */
const TWICE = 100

export interface BatchOptions {
  readonly from: number
  readonly seeds: number
  /** Ends after so many failed seeds. Default: 1. */
  readonly mostFailed?: number
  readonly planted?: Planted
  readonly onSeed?: (totals: Totals) => void
}

export async function simulateMany(of: BatchOptions): Promise<Totals> {
  const totals: Totals = {
    seeds: 0,
    events: 0,
    virtualSeconds: 0,
    faults: new Map(),
    endings: new Map(),
    seen: new Map(),
    failed: [],
  }
  for (let seed = of.from; seed < of.from + of.seeds; seed++) {
    const outcome = await simulateSeed(drawOptions(seed), of.planted)
    const again = seed % TWICE === 0 ? await simulateSeed(drawOptions(seed), of.planted) : outcome
    const violations =
      again.hash === outcome.hash ? outcome.violations : [...outcome.violations, 'the same seed had another history']
    add(totals, { ...outcome, violations })
    of.onSeed?.(totals)
    if (totals.failed.length >= (of.mostFailed ?? 1)) break
  }
  return totals
}

/** One simulation, with what Node would have ended a process for. */
export async function simulateSeed(options: Options, planted?: Planted, explained?: boolean): Promise<Outcome> {
  const unhandled: string[] = []
  const note = (reason: unknown): void => {
    unhandled.push(`unhandled: ${reason}`)
  }
  process.on('unhandledRejection', note)
  // Every abort makes an error; nobody looks at where.
  const { stackTraceLimit } = Error
  Error.stackTraceLimit = 0
  try {
    await turn()
    const outcome = await new Promise<Outcome>((resolve, reject) => {
      setImmediate(() => {
        try {
          resolve(simulate(options, planted, explained))
        } catch (error) {
          reject(error)
        }
      })
    })
    await turn()
    return { ...outcome, violations: [...outcome.violations, ...new Set(unhandled)] }
  } finally {
    Error.stackTraceLimit = stackTraceLimit
    process.off('unhandledRejection', note)
  }
}

function add(totals: Totals, outcome: Outcome): void {
  totals.seeds++
  totals.events += outcome.events
  totals.virtualSeconds += outcome.virtualSeconds
  for (const [kind, times] of outcome.faults) count(totals.faults, kind, times)
  for (const ending of outcome.endings) count(totals.endings, ending, 1)
  for (const what of outcome.seen.keys()) count(totals.seen, what, 1)
  if (outcome.violations.length > 0) totals.failed.push(outcome)
}

const count = (map: Map<string, number>, key: string, times: number): unknown =>
  map.set(key, (map.get(key) ?? 0) + times)
