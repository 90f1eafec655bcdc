import { serverSentData } from '../../../coordinator/cli/client.ts'
import type { Random } from '../../../shared/clock.ts'
import { realClock } from '../../../shared/link/real-clock.ts'

/** Clients that ask one thing after the other, and wait when they are told to. */

export interface LoadPrompt {
  readonly tokens: number
  /** Of `/v1/completions`. */
  readonly body: object
  readonly reference?: string
}

/** What became of a request. */
export type Attempt =
  | {
      readonly kind: 'answered'
      readonly tokens: number
      readonly text: string
      readonly seconds: number
      readonly right: boolean
    }
  | { readonly kind: 'refused'; readonly retrySeconds: number; readonly why: string }
  | { readonly kind: 'other'; readonly why: string }

/** One request, every second one as a stream. Whatever goes wrong is told, not thrown. */
export async function tryOnce(url: string, prompt: LoadPrompt, signal: AbortSignal, stream = false): Promise<Attempt> {
  const started = performance.now()
  try {
    const answer = await fetch(`${url}/v1/completions`, {
      method: 'POST',
      headers: { 'content-type': 'application/json' },
      body: JSON.stringify({ ...prompt.body, stream }),
      signal,
    })
    if (answer.status === 429) {
      const retrySeconds = Number(answer.headers.get('retry-after'))
      const why = await answer.text()
      return retrySeconds >= 1
        ? { kind: 'refused', retrySeconds, why }
        : { kind: 'other', why: '429 without Retry-After' }
    }
    if (!answer.ok) return { kind: 'other', why: `${answer.status} ${await answer.text()}` }
    const text = stream ? await streamedText(answer) : wholeText((await answer.json()) as Answer)
    const seconds = (performance.now() - started) / 1000
    return { kind: 'answered', tokens: prompt.tokens, text, seconds, right: text === prompt.reference }
  } catch (thrown) {
    const { message, cause } = thrown as Error
    return { kind: 'other', why: `${message}${cause instanceof Error ? `: ${cause.message}` : ''}` }
  }
}

interface Answer {
  readonly choices?: readonly { readonly text: string }[]
  readonly error?: { readonly code: string; readonly message: string }
}

const wholeText = ({ choices }: Answer): string => choices?.map(({ text }) => text).join('') ?? ''

async function streamedText(answer: Response): Promise<string> {
  let text = ''
  for await (const data of serverSentData(answer)) {
    if (data === '[DONE]') return text
    const chunk = JSON.parse(data) as Answer
    if (chunk.error !== undefined) throw new Error(`${chunk.error.code}: ${chunk.error.message}`)
    text += wholeText(chunk)
  }
  throw new Error('the stream ended without [DONE]')
}

export class LoadClients {
  readonly #url: string
  readonly #prompts: readonly LoadPrompt[]
  readonly #random: Random
  readonly #signal: AbortSignal
  readonly #attempts: Attempt[] = []
  #underWay = 0

  constructor(url: string, prompts: readonly LoadPrompt[], random: Random, signal: AbortSignal) {
    this.#url = url
    this.#prompts = prompts
    this.#random = random
    this.#signal = signal
  }

  counts() {
    const of = (kind: Attempt['kind']): number => this.#attempts.filter((attempt) => attempt.kind === kind).length
    return { answered: of('answered'), refused: of('refused'), other: of('other'), underWay: this.#underWay }
  }

  /** Resolves when all have stopped asking and have their last answer. */
  async run(clients: number, seconds: number): Promise<readonly Attempt[]> {
    const until = realClock.now() + seconds
    await Promise.all(Array.from({ length: clients }, (_, i) => this.#client(i % 2 === 0, until)))
    return this.#attempts
  }

  async #client(stream: boolean, until: number): Promise<void> {
    while (realClock.now() < until && !this.#signal.aborted) {
      const prompt = this.#prompts[Math.floor(this.#random() * this.#prompts.length)]!
      this.#underWay += 1
      const attempt = await tryOnce(this.#url, prompt, this.#signal, stream)
      this.#underWay -= 1
      this.#attempts.push(attempt)
      // As well-behaved clients do: not before the time that is named, and not all in the same instant.
      const pause =
        attempt.kind === 'answered' ? 0 : (attempt.kind === 'refused' ? attempt.retrySeconds : 1) + this.#random()
      const left = until - realClock.now()
      if (pause > 0 && left > 0) await realClock.sleep(Math.min(pause, left), this.#signal)
    }
  }
}
