import { parseArgs } from 'node:util'
import { simulateMany, simulateSeed, type Totals } from './batch.ts'
import { drawOptions } from './options.ts'
import { shrink } from './shrink.ts'
import type { Outcome } from './simulation.ts'

/** `npm run simulate -- [--seeds COUNT] [--from SEED] [--seed SEED [--shrink]]` */

const TAIL_LINES = 150

const { values } = parseArgs({
  options: {
    seeds: { type: 'string', default: '1000' },
    from: { type: 'string', default: '1' },
    seed: { type: 'string' },
    shrink: { type: 'boolean', default: false },
    lines: { type: 'string', default: `${TAIL_LINES}` },
    'most-failed': { type: 'string', default: '1' },
  },
})

const say = (line: string): void => {
  process.stdout.write(`${line}\n`)
}

const table = (title: string, of: ReadonlyMap<string, number>): void => {
  say(`${title}:`)
  for (const [key, times] of [...of].toSorted((a, b) => b[1] - a[1])) say(`  ${`${times}`.padStart(9)}  ${key}`)
}

function sayFailure(outcome: Outcome): void {
  say(`\nSEED ${outcome.options.seed} FAILED, after ${outcome.virtualSeconds.toFixed(3)} s:`)
  for (const violation of outcome.violations) say(`  ${violation}`)
  say(`options: ${inJson(outcome.options)}`)
  say(`the last events (hash of all ${outcome.hash}):`)
  for (const line of outcome.tail(Number(values.lines))) say(line)
  say(`again: npm run simulate -- --seed ${outcome.options.seed}, with --shrink for the least that breaks it`)
}

const inJson = (of: unknown): string =>
  JSON.stringify(of, (_, value) => (value instanceof Int32Array ? [...value] : value))

const sizes = ({ options: { faults, clients } }: Outcome): string =>
  `${faults.length} faults and ${clients.length} clients`

function sayTotals(totals: Totals, seconds: number): void {
  const { seeds, events, virtualSeconds, endings, faults, seen, failed } = totals
  const sum = (of: ReadonlyMap<string, number>): number => [...of.values()].reduce((all, times) => all + times, 0)
  say(
    `\n${seeds} seeds, ${events} events, ${virtualSeconds.toFixed(0)} s of virtual time in ${seconds.toFixed(1)} s ` +
      `(${((seconds / seeds) * 1000).toFixed(1)} ms a seed); ${sum(faults)} faults, ${endings.get('done') ?? 0} runs answered`,
  )
  table('faults', faults)
  table('how runs ended', endings)
  table('seeds that saw', seen)
  say(failed.length === 0 ? 'no invariant was broken' : `${failed.length} seeds failed`)
}

if (values.seed !== undefined) {
  const drawn = await simulateSeed(drawOptions(Number(values.seed)), {}, true)
  const outcome = values.shrink && drawn.violations.length > 0 ? await shrink(drawn) : drawn
  if (outcome !== drawn) {
    say(`${sizes(drawn)} shrunk to ${sizes(outcome)}:`)
    for (const of of [...outcome.options.faults, ...outcome.options.clients]) say(`  ${inJson(of)}`)
  }
  if (outcome.violations.length === 0) for (const line of outcome.tail(Number(values.lines))) say(line)
  say(`hash ${outcome.hash}, ${outcome.events} events`)
  if (outcome.violations.length > 0) sayFailure(outcome)
  process.exitCode = outcome.violations.length > 0 ? 1 : 0
} else {
  const started = performance.now()
  const seconds = (): number => (performance.now() - started) / 1000
  let told = seconds()
  let said = 0
  const totals = await simulateMany({
    from: Number(values.from),
    seeds: Number(values.seeds),
    mostFailed: Number(values['most-failed']),
    onSeed: ({ seeds, failed }) => {
      for (; said < failed.length; said++) sayFailure(failed[said]!)
      if (seconds() - told < 10) return
      told = seconds()
      process.stderr.write(`${seeds} seeds\n`)
    },
  })
  sayTotals(totals, seconds())
  process.exitCode = totals.failed.length > 0 ? 1 : 0
}
