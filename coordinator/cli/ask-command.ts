import { readFile, writeFile } from 'node:fs/promises'
import type { Program } from '../../shared/cli/options.ts'
import { reportFatal, stopSignal } from '../../shared/cli/process.ts'
import { noColour } from '../../shared/env.ts'
import { HeadraceError } from '../../shared/errors.ts'
import { STRATEGIES } from '../../shared/plan.ts'
import type { ChromeTrace } from '../trace/chrome.ts'
import { getJson } from './client.ts'
import { converse, runLine, workersTable } from './conversation.ts'
import { type GanttStyle, gantt } from './gantt.ts'

/** `headrace ask`. */
export const askCommand = (program: Program): Program =>
  program.command(
    'ask <file>',
    'Ask a question about a text file',
    (args) =>
      args
        .positional('file', { type: 'string', demandOption: true, describe: 'The text; - is standard input' })
        .option('question', { type: 'string', demandOption: true, alias: 'q', describe: 'Put after the text' })
        .option('url', { type: 'string', default: 'http://127.0.0.1:8080', describe: 'The coordinator' })
        .option('api-key', { type: 'string', describe: 'Where the coordinator asks for keys' })
        .option('strategy', { choices: STRATEGIES, describe: 'Insist on a strategy [default: the planner decides]' })
        .option('workers', { type: 'number', describe: 'Insist on a number of workers' })
        .option('max-tokens', { type: 'number', describe: 'Longest answer' })
        .option('temperature', { type: 'number', default: 0, describe: '0 takes the likeliest token each time' })
        .option('trace', { type: 'boolean', default: false, describe: 'Draw what each worker did when' })
        .option('trace-file', { type: 'string', describe: 'Write the same for Perfetto (ui.perfetto.dev), as JSON' }),
    (args) => ask(args).catch((thrown: unknown) => reportFatal(thrown)),
  )

interface AskArgs {
  file: string
  question: string
  url: string
  apiKey?: string | undefined
  strategy?: string | undefined
  workers?: number | undefined
  maxTokens?: number | undefined
  temperature: number
  trace: boolean
  traceFile?: string | undefined
}

async function ask({ file, question, url, trace, traceFile, ...rest }: AskArgs): Promise<void> {
  const signal = stopSignal()
  const text = await readText(file)
  const chat = { ...rest, question: `${text}\n\n${question}` }
  const outcome = await converse(url, chat, { answer: process.stdout, notes: process.stderr }, signal)
  process.stderr.write(`\n${runLine(outcome)}\n${workersTable(outcome)}\n`)
  if (!trace && traceFile === undefined) return
  const { run, bottleneck } = outcome.prefill
  if (run === undefined) throw new HeadraceError('run_not_found', 'this coordinator does not name its runs')
  const spans = await getJson<ChromeTrace>(`${url}/v1/runs/${run}/trace`, signal, rest.apiKey)
  if (trace) process.stderr.write(`\n${gantt(spans, terminal())}\nbottleneck: ${bottleneck}\n`)
  if (traceFile !== undefined) await writeText(traceFile, JSON.stringify(spans))
}

const PLAIN_WIDTH = 80

function terminal(): GanttStyle {
  const { isTTY, columns } = process.stderr
  return { width: isTTY ? columns : PLAIN_WIDTH, colour: isTTY && !noColour() }
}

async function writeText(file: string, text: string): Promise<void> {
  try {
    await writeFile(file, text)
  } catch (cause) {
    throw new HeadraceError('bad_config', `${file} cannot be written`, { cause })
  }
}

async function readText(file: string): Promise<string> {
  try {
    return await readFile(file === '-' ? '/dev/stdin' : file, 'utf8')
  } catch (cause) {
    throw new HeadraceError('bad_config', `${file} cannot be read`, { cause })
  }
}
