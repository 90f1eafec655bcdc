import { setTimeout as sleep } from 'node:timers/promises'
import { serverSentData } from '../../coordinator/cli/client.ts'
import type { Ask } from './asks.ts'
import { Deadline } from './deadline.ts'

/** A good client: it waits where it is told to, and tries again then; nothing else is tried twice. */

/** The part of an answer's `prefill` object that says who took part. */
export interface Account {
  readonly run: string
  readonly workers: readonly { id: string; tokens: number; compute_seconds?: number }[]
  readonly decode: string
  readonly attempts?: number
  readonly repairs?: readonly { worker: string; code: string; tokens: number }[]
}

export type Outcome =
  | { readonly kind: 'answered'; readonly tokens: readonly string[]; readonly text: string; readonly account: Account }
  /** No answer: an error that says nothing of trying again, or a connection that ended early. */
  | { readonly kind: 'lost'; readonly code: string; readonly message: string; readonly tokens: readonly string[] }

export interface Asked {
  readonly ask: Ask
  readonly outcome: Outcome
  /** Seconds, on the clock of the caller. */
  readonly from: number
  readonly to: number
  /** How often the cluster asked for patience. */
  readonly retries: number
}

/** Longer than any answer takes, with every repair: who waits longer has been forgotten. */
const PATIENCE_SECONDS = 120
const MOST_WAIT_SECONDS = 10

export const now = (): number => performance.now() / 1000

export async function askPatiently(url: string, ask: Ask, signal: AbortSignal): Promise<Asked> {
  const from = now()
  const patience = new Deadline(PATIENCE_SECONDS, signal)
  try {
    for (let retries = 0; ; retries++) {
      const tried = await tryOnce(url, ask, patience.signal)
      signal.throwIfAborted()
      if ('kind' in tried) {
        const outcome = patience.passed && tried.kind === 'lost' ? { ...tried, code: 'no_end' } : tried
        return { ask, outcome, from, to: now(), retries }
      }
      const wait = Math.min(tried.retryAfter, MOST_WAIT_SECONDS) * 1000
      // Told to wait until after its patience has ended: then the next attempt says so.
      await sleep(wait, undefined, { signal: patience.signal }).catch(() => undefined)
    }
  } finally {
    patience.clear()
  }
}

async function tryOnce(url: string, ask: Ask, signal: AbortSignal): Promise<Outcome | { retryAfter: number }> {
  const told: string[] = []
  try {
    const answer = await fetch(`${url}/v1/completions`, {
      method: 'POST',
      headers: { 'content-type': 'application/json' },
      body: JSON.stringify({ ...ask.body, stream: ask.stream }),
      signal,
    })
    const retryAfter = answer.headers.get('retry-after')
    if ((answer.status === 429 || answer.status === 503) && retryAfter !== null) {
      await answer.arrayBuffer()
      return { retryAfter: Number(retryAfter) }
    }
    return ask.stream && answer.ok ? await readStream(answer, told) : readWhole((await answer.json()) as Chunk)
  } catch (thrown) {
    const error = thrown as Error & { cause?: Error }
    return { kind: 'lost', code: 'broken', message: `${error.message}: ${error.cause?.message ?? ''}`, tokens: told }
  }
}

interface Chunk {
  readonly error?: { readonly code: string; readonly message: string }
  readonly choices?: readonly { text: string; logprobs?: { tokens: readonly string[] } | null }[]
  readonly prefill?: Account
}

function readWhole({ error, choices, prefill }: Chunk): Outcome {
  const choice = choices?.[0]
  if (choice === undefined || prefill === undefined)
    return { kind: 'lost', code: error?.code ?? 'no_answer', message: error?.message ?? '', tokens: [] }
  return { kind: 'answered', text: choice.text, tokens: choice.logprobs?.tokens ?? [], account: prefill }
}

/** @param tokens what has been told so far, for who asks after it broke off */
async function readStream(answer: Response, tokens: string[]): Promise<Outcome> {
  let text = ''
  let account: Account | undefined
  for await (const data of serverSentData(answer)) {
    if (data === '[DONE]' && account !== undefined) return { kind: 'answered', text, tokens, account }
    const chunk = JSON.parse(data) as Chunk
    if (chunk.error) return { kind: 'lost', ...chunk.error, tokens }
    text += chunk.choices?.[0]?.text ?? ''
    tokens.push(...(chunk.choices?.[0]?.logprobs?.tokens ?? []))
    account = chunk.prefill ?? account
  }
  return { kind: 'lost', code: 'no_done', message: 'the stream ended without [DONE]', tokens }
}
