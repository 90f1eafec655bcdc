import { readFile } from 'node:fs/promises'
import OpenAI from 'openai'
import { wholeNumber } from '../../../shared/cli/options.ts'
import type { Strategy } from '../../../shared/plan.ts'
import { fixture } from '../../support/paths.ts'
import { withCluster } from '../harness/cluster.ts'
import type { Report } from '../harness/report.ts'
import { defineSuite } from '../suite.ts'

/** Whether the bundled model answers as its reference does (Hugging Face transformers, float32), through HTTP. */
export const answersSuite = defineSuite({
  name: 'answers',
  describe: 'Greedy answers against reference answers, with the official client',
  options: {
    prompts: { type: 'string', default: fixture('prompts/prompts.jsonl'), describe: 'One prompt a line' },
    strategy: { choices: ['solo', 'chain', 'ring'], default: 'chain', describe: 'How to split' },
    workers: { type: 'number', default: 2, describe: 'Workers, one core each' },
    'below-tokens': { type: 'number', default: 2 ** 31, describe: 'Only prompts shorter than this' },
  },
  async run({ prompts: file, strategy, workers: asked, 'below-tokens': below }, { signal, note }) {
    const workers = wholeNumber('workers', asked, 1, 64)
    const prompts = (await readFile(file, 'utf8'))
      .trim()
      .split('\n')
      .map((line): Known => JSON.parse(line))
    return withCluster({ workers }, signal, async (cluster) => {
      const client = new OpenAI({ baseURL: `${cluster.url}/v1`, apiKey: 'none', maxRetries: 0, timeout: 3_600_000 })
      const how = strategy === 'solo' ? { strategy } : { strategy, workers }
      const findings: Finding[] = []
      for (const known of prompts.filter(({ prompt_tokens }) => prompt_tokens < below)) {
        findings.push(await compare(client, known, how as { strategy: Strategy }))
        note(line(findings.at(-1)!))
      }
      return report(findings, strategy, workers)
    })
  },
})

interface Known {
  readonly messages: OpenAI.ChatCompletionMessageParam[]
  readonly prompt_tokens: number
  readonly answer: string
  readonly dense: { readonly text: string }
}

interface Finding {
  readonly promptTokens: number
  readonly countAgrees: boolean
  readonly expected: string
  readonly found: string
  readonly equal: boolean
  readonly right: boolean
  /** The smallest gap between the two most likely tokens along the answer, as a log-probability: how near a tie was. */
  readonly leastGap: number
}

async function compare(client: OpenAI, known: Known, headrace: object): Promise<Finding> {
  const { messages, prompt_tokens, dense } = known
  const body = {
    model: 'logbook-7m',
    messages,
    temperature: 0,
    max_tokens: 48,
    logprobs: true,
    top_logprobs: 2,
    headrace,
  }
  const answer = await client.chat.completions.create(body)
  const found = answer.choices[0]?.message.content?.trim() ?? ''
  const scored = answer.choices[0]?.logprobs?.content ?? []
  const gaps = scored.map(({ top_logprobs: [first, second] }) => (first?.logprob ?? 0) - (second?.logprob ?? -Infinity))
  return {
    promptTokens: prompt_tokens,
    countAgrees: answer.usage?.prompt_tokens === prompt_tokens,
    expected: dense.text,
    found,
    equal: found === dense.text,
    right: found === known.answer,
    leastGap: Math.min(...gaps),
  }
}

const line = ({ promptTokens, equal, found, expected, leastGap }: Finding): string =>
  `${promptTokens} tokens: ${equal ? 'equal' : `DIFFERENT, "${expected}" was expected`}: "${found}", least gap ${leastGap.toFixed(4)}`

function report(findings: readonly Finding[], strategy: string, workers: number): Report {
  const count = (test: (finding: Finding) => boolean): number => findings.filter(test).length
  const how = `${strategy} over ${strategy === 'solo' ? 1 : workers}`
  return {
    parts: [
      {
        title: `Greedy answers by ${how}, against the reference`,
        head: ['prompts', 'equal', 'prompt tokens agree', 'right', 'least gap'],
        rows: [
          [
            String(findings.length),
            String(count(({ equal }) => equal)),
            String(count(({ countAgrees }) => countAgrees)),
            String(count(({ right }) => right)),
            Math.min(...findings.map(({ leastGap }) => leastGap)).toFixed(4),
          ],
        ],
      },
      ...findings.filter(({ equal }) => !equal).map((finding) => ({ line: line(finding) })),
    ],
    data: { how, findings },
  }
}
