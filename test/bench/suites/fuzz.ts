import { Dice } from '../../fuzz/dice.ts'
import { fuzz } from '../../fuzz/fuzz.ts'
import type { Finding, Swept } from '../../fuzz/sweep.ts'
import { TARGETS, targetOf } from '../../fuzz/targets.ts'
import { columns, mebibytes, percent, type Report } from '../harness/report.ts'
import { defineSuite } from '../suite.ts'

/** Hostile bytes for everything that reads bytes. What it finds becomes a file in `test/corpus/`. */
export const fuzzSuite = defineSuite({
  name: 'fuzz',
  describe: 'Seeded damage and grammars against every decoder: any end but a coded error is a finding',
  options: {
    inputs: { type: 'number', default: 1_000_000, describe: 'Inputs over all targets' },
    seed: { type: 'number', default: 1, describe: 'Every input follows from the seed, its target and its index' },
    target: { type: 'string', choices: TARGETS.map(({ name }) => name), describe: 'Only this one' },
    index: { type: 'number', describe: 'Only this input of the target: shows it and what becomes of it' },
    processes: { type: 'number', default: 2, describe: 'At the same time' },
  },
  async run({ inputs, seed, target, index, processes }, { signal, note }) {
    if (target !== undefined && index !== undefined) return replay(target, seed, index)
    const swept = await fuzz({ inputs, seed, target, processes, signal, note })
    if (swept.some(({ findings }) => findings.length > 0)) process.exitCode = 1
    return reportOf(swept, seed)
  },
})

function reportOf(swept: readonly Swept[], seed: number): Report {
  const findings = swept.flatMap((each) => each.findings)
  const total = swept.reduce((sum, { inputs }) => sum + inputs, 0)
  const head = columns('target, inputs, read, answers, inputs/s, slowest ms (index), most MiB, findings')
  const rows = swept.map(({ target, inputs, outcomes, mostSeconds, slowest, mostBytes, seconds, findings: found }) => [
    target,
    String(inputs),
    percent((outcomes['ok'] ?? 0) / inputs),
    String(Object.keys(outcomes).length),
    (inputs / seconds).toFixed(0),
    `${(mostSeconds * 1000).toFixed(0)} (${slowest})`,
    mebibytes(mostBytes),
    String(found.length),
  ])
  const line = `${total} inputs of seed ${seed}: ${findings.length} findings`
  return {
    parts: [
      { title: 'Hostile bytes', head, rows },
      ...findings.map((finding) => ({ line: textOf(finding) })),
      { line },
    ],
    data: { seed, swept },
  }
}

const MOST_HEX = 4000

/** As it can be replayed. */
const textOf = ({ target, seed, index, hex, what }: Finding): string =>
  `FOUND --target ${target} --seed ${seed} --index ${index}\n${what}\n` +
  `${hex.slice(0, MOST_HEX)}${hex.length > MOST_HEX ? `... (${hex.length / 2} bytes)` : ''}`

/** In this process: whoever asks for one input wants to debug it. */
async function replay(target: string, seed: number, index: number): Promise<Report> {
  const { input, take, close } = await targetOf(target).open()
  const bytes = input(Dice.of(seed, target, index))
  const hex = Buffer.from(bytes).toString('hex')
  process.stdout.write(`${hex}\n`)
  const answer = await take(bytes)
  await close?.()
  return { parts: [{ line: `${target} ${index}: ${answer}` }], data: { target, seed, index, hex, answer } }
}
