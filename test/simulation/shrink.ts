import { simulateSeed } from './batch.ts'
import type { Options } from './options.ts'
import type { Outcome } from './simulation.ts'
import type { Planted } from './world.ts'

/**
 * The same simulation with as little in it as still breaks the same invariant: faults, then clients, are left out in halves,
 * quarters and so on down to single ones, until none of what is left can go (Zeller and Hildebrandt, 2002: "Simplifying and
 * Isolating Failure-Inducing Input"). `outcome` must have violations.
 */
export async function shrink(outcome: Outcome, planted?: Planted): Promise<Outcome> {
  const broken = kindsOf(outcome)
  let least = outcome
  const stillBreaks = async (options: Options): Promise<boolean> => {
    const tried = await simulateSeed(options, planted, true)
    if (!kindsOf(tried).some((kind) => broken.includes(kind))) return false
    least = tried
    return true
  }
  for (let before = Number.POSITIVE_INFINITY; sizeOf(least) < before; ) {
    before = sizeOf(least)
    const { options } = least
    await fewer(options.faults, (faults) => stillBreaks({ ...least.options, faults }))
    await fewer(options.clients, (clients) => stillBreaks({ ...least.options, clients }))
  }
  return least
}

const sizeOf = ({ options }: Outcome): number => options.faults.length + options.clients.length

/** What was broken, without whose and how many. */
const kindsOf = ({ violations }: Outcome): string[] =>
  violations.map((what) => what.replace(/\b(run|client|[wd])?-?\d[\w.-]*/g, '#'))

async function fewer<T>(all: readonly T[], suffices: (left: readonly T[]) => Promise<boolean>): Promise<void> {
  let left = all
  for (let size = Math.ceil(left.length / 2); size >= 1 && left.length > 0; size = size > 1 ? Math.ceil(size / 2) : 0)
    for (let from = 0; from < left.length; ) {
      const without = [...left.slice(0, from), ...left.slice(from + size)]
      if (await suffices(without)) left = without
      else from += size
    }
}
