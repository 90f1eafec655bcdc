import { readFile } from 'node:fs/promises'
import type { Program } from '../../shared/cli/options.ts'
import { reportFatal, stopSignal } from '../../shared/cli/process.ts'
import { HeadraceError } from '../../shared/errors.ts'
import { STRATEGIES } from '../../shared/plan.ts'
import { converse, runLine, workersTable } from './conversation.ts'

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
        .option('strategy', { choices: STRATEGIES, describe: 'Insist on a strategy [default: the planner decides]' })
        .option('workers', { type: 'number', describe: 'Insist on a number of workers' })
        .option('max-tokens', { type: 'number', describe: 'Longest answer' })
        .option('temperature', { type: 'number', default: 0, describe: '0 takes the likeliest token each time' }),
    (args) => ask(args).catch((thrown: unknown) => reportFatal(thrown)),
  )

interface AskArgs {
  file: string
  question: string
  url: string
  strategy?: string | undefined
  workers?: number | undefined
  maxTokens?: number | undefined
  temperature: number
}

async function ask({ file, question, url, ...rest }: AskArgs): Promise<void> {
  const text = await readText(file)
  const chat = { ...rest, question: `${text}\n\n${question}` }
  const outcome = await converse(url, chat, { answer: process.stdout, notes: process.stderr }, stopSignal())
  process.stderr.write(`\n${runLine(outcome)}\n${workersTable(outcome)}\n`)
}

async function readText(file: string): Promise<string> {
  try {
    return await readFile(file === '-' ? '/dev/stdin' : file, 'utf8')
  } catch (cause) {
    throw new HeadraceError('bad_config', `${file} cannot be read`, { cause })
  }
}
