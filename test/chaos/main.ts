import { mkdtemp } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import yargs from 'yargs'
import { hideBin } from 'yargs/helpers'
import { wholeNumber } from '../../shared/cli/options.ts'
import { reportFatal, stopSignal } from '../../shared/cli/process.ts'
import { chaos } from './chaos.ts'
import { verdictOf } from './verdict.ts'

/** `npm run chaos`: a cluster of real processes on loopback, broken at random. Linux only: signals, /proc, 127.0.0.2. */

const args = await yargs(hideBin(process.argv))
  .scriptName('npm run chaos --')
  .usage('$0 [options]: break a real cluster at random and compare every answer')
  .option('minutes', { type: 'number', default: 3, describe: 'How long things are broken' })
  .option('seed', { type: 'number', describe: 'Draws prompts and faults again as they were [default: of the clock]' })
  .option('workers', { type: 'number', default: 4, describe: 'Prefill workers' })
  .option('decode-nodes', { type: 'number', default: 2, describe: 'Decode nodes' })
  .option('clients', { type: 'number', default: 3, describe: 'Requests at the same time' })
  .option('gap-seconds', { type: 'number', default: 0.9, describe: 'Mean time between two faults' })
  .option('prompts', { type: 'number', default: 12, describe: 'Different prompts' })
  .option('most-tokens', { type: 'number', default: 2000, describe: 'Length of the longest prompt' })
  .option('model', { type: 'string', describe: 'Model folder [default: the bundled model]' })
  .option('quiet', { type: 'boolean', default: false, describe: 'Tell of the outcome only' })
  .strict()
  .version(false)
  .wrap(110)
  .parseAsync()

try {
  const seed = args.seed ?? Date.now() % 2 ** 31
  const logs = await mkdtemp(join(tmpdir(), 'headrace-chaos-'))
  const began = performance.now()
  const note = (text: string): void => {
    if (!args.quiet) process.stderr.write(`${((performance.now() - began) / 1000).toFixed(1).padStart(6)} ${text}\n`)
  }
  const options = {
    seed,
    seconds: args.minutes * 60,
    gapSeconds: args.gapSeconds,
    clients: wholeNumber('clients', args.clients, 1, 64),
    workers: wholeNumber('workers', args.workers, 1, 32),
    decodeNodes: wholeNumber('decode-nodes', args.decodeNodes, 1, 32),
    asks: { count: wholeNumber('prompts', args.prompts, 1, 1000), leastTokens: 40, mostTokens: args.mostTokens },
    calmRounds: 3,
    logs,
    note,
    ...(args.model && { model: args.model }),
  }
  const { good, text } = verdictOf(await chaos(options, stopSignal()))
  process.stdout.write(`${text}\n\nlogs of every process: ${logs}\nseed ${seed}: ${good ? 'held' : 'BROKEN'}\n`)
  process.exitCode = good ? 0 : 1
} catch (thrown) {
  reportFatal(thrown)
}
