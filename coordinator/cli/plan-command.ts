import { type Program, wholeNumber } from '../../shared/cli/options.ts'
import { reportFatal, stopSignal } from '../../shared/cli/process.ts'
import { getJson } from './client.ts'
import { type PlanAnswer, planText } from './plan-text.ts'

/** `headrace plan`. */
export const planCommand = (program: Program): Program =>
  program.command(
    'plan',
    'What a prompt of this length would take, by every way to split it, without running it',
    (args) =>
      args
        .option('prompt-tokens', { type: 'number', demandOption: true, describe: 'Length of the prompt' })
        .option('url', { type: 'string', default: 'http://127.0.0.1:8080', describe: 'The coordinator' })
        .option('api-key', { type: 'string', describe: 'Where the coordinator asks for keys' })
        .option('json', { type: 'boolean', default: false, describe: 'Print what the API answers' }),
    (args) => plan(args).catch((thrown: unknown) => reportFatal(thrown)),
  )

interface PlanArgs {
  promptTokens: number
  url: string
  apiKey?: string | undefined
  json: boolean
}

async function plan({ promptTokens, url, apiKey, json }: PlanArgs): Promise<void> {
  const tokens = wholeNumber('prompt-tokens', promptTokens, 1, 2 ** 31 - 1)
  const answer = await getJson<PlanAnswer>(`${url}/v1/plan?prompt_tokens=${tokens}`, stopSignal(), apiKey)
  process.stdout.write(`${json ? JSON.stringify(answer, undefined, 2) : planText(answer)}\n`)
}
