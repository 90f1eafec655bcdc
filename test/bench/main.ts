import { writeFile } from 'node:fs/promises'
import yargs from 'yargs'
import { hideBin } from 'yargs/helpers'
import { reportFatal, stopSignal } from '../../shared/cli/process.ts'
import { machineFacts, machineText } from './harness/machine.ts'
import { reportText } from './harness/report.ts'
import type { Suite } from './suite.ts'
import { answersSuite } from './suites/answers.ts'
import { coldSuite } from './suites/cold.ts'
import { concurrentSuite } from './suites/concurrent.ts'
import { decodeSuite } from './suites/decode.ts'
import { engineSuite } from './suites/engine.ts'
import { fuzzSuite } from './suites/fuzz.ts'
import { gpuSuite } from './suites/gpu.ts'
import { handoffSuite } from './suites/handoff.ts'
import { linksSuite } from './suites/links.ts'
import { loadSuite } from './suites/load.ts'
import { memorySuite } from './suites/memory.ts'
import { plannerSuite } from './suites/planner.ts'
import { pullSuite } from './suites/pull.ts'
import { qualitySuite } from './suites/quality.ts'
import { splitSuite } from './suites/split.ts'
import { unevenSuite } from './suites/uneven.ts'

/** `npm run bench -- SUITE`: real processes on this machine. Suites are listed here and know nothing of each other. */
const SUITES: readonly Suite[] = [
  splitSuite,
  memorySuite,
  answersSuite,
  engineSuite,
  gpuSuite,
  qualitySuite,
  decodeSuite,
  coldSuite,
  linksSuite,
  unevenSuite,
  handoffSuite,
  concurrentSuite,
  plannerSuite,
  pullSuite,
  fuzzSuite,
  loadSuite,
]

const { stdout, stderr } = process
const program = yargs(hideBin(process.argv))
  .scriptName('npm run bench --')
  .usage('$0 SUITE [--json FILE] [options]')
  .option('json', { type: 'string', describe: 'Also write everything that was measured to this file' })
for (const suite of SUITES)
  program.command(suite.name, suite.describe, suite.options, (args) =>
    run(suite, args).catch((thrown: unknown) => reportFatal(thrown)),
  )
const { _: asked } = await program.strict().version(false).wrap(110).parseAsync()
// No suite is no error: `node --test` runs every file below `dist/test`, so this one too.
if (asked.length === 0) program.showHelp('log')

async function run(suite: Suite, args: Parameters<Suite['run']>[0] & { json?: unknown }): Promise<void> {
  const signal = stopSignal()
  const machine = machineFacts()
  stdout.write(`${machineText(machine)}\n`)
  const note = (text: string): void => void stderr.write(`${text}\n`)
  const report = await suite.run(args, { signal, note })
  stdout.write(`\n${reportText(report)}\n`)
  if (typeof args.json !== 'string') return
  const json = { suite: suite.name, machine, ...report.data }
  await writeFile(args.json, `${JSON.stringify(json, undefined, 2)}\n`)
  note(`written to ${args.json}`)
}
