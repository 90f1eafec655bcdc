import { readFile } from 'node:fs/promises'
import { join } from 'node:path'
import { type PrefillInfo, serverSentData } from '../../../coordinator/cli/client.ts'
import { bundledModel } from '../../support/paths.ts'

/** A prompt as the API takes it, the same for every run of a suite. */
export interface Prompt {
  readonly path: string
  readonly body: object
  readonly about: string
  /** What the model must say, where that is known. */
  readonly answer: string | undefined
}

export interface Asked {
  /** From just before the request to the first piece of text. */
  readonly ttftSeconds: number
  readonly totalSeconds: number
  /** From the request's arrival until the coordinator heard that the last worker had computed its last layer. */
  readonly computedSeconds: number | undefined
  readonly text: string
  readonly promptTokens: number
  readonly prefill: PrefillInfo
}

const DEMO = join(bundledModel, '..', '..', 'demo')

/** The log-book and its question through the chat API: about 12,000 tokens, tokenizer included in what is measured. */
export async function logbookPrompt(): Promise<Prompt> {
  const text = await readFile(join(DEMO, 'logbook.txt'), 'utf8')
  const demo = JSON.parse(await readFile(join(DEMO, 'demo.json'), 'utf8')) as { question: string; answer: string }
  return {
    path: '/v1/chat/completions',
    body: { messages: [{ role: 'user', content: `${text}\n\n${demo.question}` }], max_tokens: 24 },
    about: 'the log-book and its question (chat)',
    answer: demo.answer,
  }
}

/** Exactly `count` token ids: the log-book's, over and over. */
export async function tokensPrompt(url: string, count: number, signal: AbortSignal): Promise<Prompt> {
  const content = await readFile(join(DEMO, 'logbook.txt'), 'utf8')
  const answer = await post(`${url}/tokenize`, { content }, signal)
  const { tokens } = (await answer.json()) as { tokens: number[] }
  return {
    path: '/v1/completions',
    body: {
      prompt: Array.from({ length: count }, (_, i) => tokens[i % tokens.length]),
      max_tokens: 4,
      headrace: { ignore_eos: true },
    },
    about: `${count} token ids of the log-book, repeated or cut (completions)`,
    answer: undefined,
  }
}

/** What a run insists on; nothing leaves all to the planner. */
export interface How {
  readonly strategy?: string
  readonly workers?: number
  /** Tokens of each worker of the plan, in its order, in proportion to these. */
  readonly shares?: readonly number[]
}

/** Asks with greedy sampling, and times it as a client sees it. */
export async function ask(url: string, prompt: Prompt, how: How, signal: AbortSignal): Promise<Asked> {
  const given = 'headrace' in prompt.body ? (prompt.body.headrace as object) : {}
  const started = performance.now()
  const elapsed = (): number => (performance.now() - started) / 1000
  const body = { ...prompt.body, stream: true, return_progress: true, temperature: 0, headrace: { ...given, ...how } }
  const answer = await post(`${url}${prompt.path}`, body, signal)
  let text = ''
  let ttftSeconds = 0
  let computedSeconds: number | undefined
  let last: { prefill: PrefillInfo; timings: { prompt_n: number } } | undefined
  for await (const chunk of chunksOf(answer)) {
    if (chunk.error) throw new Error(`the cluster answered: ${chunk.error.message}`)
    const choice = chunk.choices?.[0]
    const piece = choice?.delta?.content ?? choice?.text ?? ''
    if (piece !== '' && text === '') ttftSeconds = elapsed()
    text += piece
    if (chunk.prompt_progress) computedSeconds = chunk.prompt_progress.time_ms / 1000
    if (chunk.prefill && chunk.timings) last = { prefill: chunk.prefill, timings: chunk.timings }
  }
  if (last === undefined) throw new Error('the stream ended without an account of the prefill')
  const { prefill, timings } = last
  const answered = { ttftSeconds, totalSeconds: elapsed(), computedSeconds, text: text.trim() }
  return { ...answered, promptTokens: timings.prompt_n, prefill }
}

async function post(url: string, body: object, signal: AbortSignal): Promise<Response> {
  const headers = { 'content-type': 'application/json' }
  const answer = await fetch(url, { method: 'POST', headers, body: JSON.stringify(body), signal })
  if (!answer.ok) throw new Error(`${url} answered ${answer.status}: ${await answer.text()}`)
  return answer
}

interface Chunk {
  readonly choices?: readonly { delta?: { content?: string }; text?: string }[]
  readonly prefill?: PrefillInfo
  readonly timings?: { prompt_n: number }
  readonly prompt_progress?: { time_ms: number }
  readonly error?: { message: string }
}

async function* chunksOf(answer: Response): AsyncGenerator<Chunk, void> {
  for await (const data of serverSentData(answer)) if (data !== '[DONE]') yield JSON.parse(data) as Chunk
}
