import { readFile } from 'node:fs/promises'
import { availableParallelism } from 'node:os'
import { fileURLToPath } from 'node:url'
import type { Program } from '../../shared/cli/options.ts'
import { reportFatal, stopSignal } from '../../shared/cli/process.ts'
import { HeadraceError } from '../../shared/errors.ts'
import { STRATEGIES } from '../../shared/plan.ts'
import { converse, type Outcome, workersTable } from './conversation.ts'
import { startLocalCluster } from './local-cluster.ts'
import { seconds, table } from './table.ts'
import { BUNDLED_MODEL } from './up-command.ts'

const DEMO_FOLDER = new URL('../../../deploy/demo/', import.meta.url)
const WORKERS = 2

/** `headrace demo`. */
export const demoCommand = (program: Program): Program =>
  program.command(
    'demo',
    'Watch a 12,000-token log-book being computed by one worker, a chain of two and a ring of two',
    (args) => args,
    () => demo().catch((thrown: unknown) => reportFatal(thrown)),
  )

async function demo(): Promise<void> {
  const { stdout } = process
  const signal = stopSignal()
  const text = await readFile(fileURLToPath(new URL('logbook.txt', DEMO_FOLDER)), 'utf8')
  const { question, answer } = JSON.parse(await readFile(fileURLToPath(new URL('demo.json', DEMO_FOLDER)), 'utf8')) as {
    question: string
    answer: string
  }

  stdout.write(`Starting a coordinator, ${WORKERS} prefill workers and a decode node on this machine ...\n`)
  const { url, group } = await startLocalCluster(
    {
      model: BUNDLED_MODEL,
      workers: WORKERS,
      decodeNodes: 1,
      engine: 'onnx',
      weights: 'f32',
      threads: 1,
      // One core each, so that one worker alone is a fair rival of two.
      pin: process.platform === 'linux' && availableParallelism() >= WORKERS,
      logLevel: 'warn',
      port: 0,
      strategy: 'auto',
    },
    signal,
  )
  try {
    stdout.write(`${[...group.pids].map(([name, pid]) => `${name} is process ${pid}`).join(', ')}; API at ${url}\n\n`)
    stdout.write(`The question, after ${text.split('\n').length} lines of a log-book: ${question}\n`)
    const outcomes: Outcome[] = []
    for (const strategy of STRATEGIES) {
      stdout.write(`\n${strategy.padEnd(6)} `)
      const chat = { question: `${text}\n\n${question}`, strategy, temperature: 0 }
      outcomes.push(await converse(url, chat, { answer: stdout, notes: process.stderr }, signal))
    }
    stdout.write(`\n${report(outcomes)}`)
    const wrong = outcomes.filter((outcome) => outcome.answer !== answer)
    if (wrong.length > 0) throw new HeadraceError('internal', `${wrong.length} answers are not "${answer}"`)
    stdout.write(`\nAll three answered "${answer}", which is what the log-book says.\n`)
  } finally {
    await group.stop()
  }
}

function report(outcomes: readonly Outcome[]): string {
  const solo = outcomes[0]!.prefill.ttft_seconds
  const rows = outcomes.map(({ prefill, timings }) => [
    prefill.strategy,
    String(prefill.workers.length),
    seconds(prefill.ttft_seconds),
    `${(solo / prefill.ttft_seconds).toFixed(2)} x`,
    seconds(prefill.predicted_ttft_seconds),
    timings.prompt_per_second.toFixed(0),
  ])
  const head = ['strategy', 'workers', 'first token', 'speed-up', 'predicted', 'prompt tokens/s']
  const [first, ...others] = outcomes.map((outcome) => workersTable(outcome).split('\n'))
  const workers = [...first!, ...others.flatMap((lines) => lines.slice(2))]
  return `${table(head, rows)}\n\n${workers.join('\n')}\n`
}
