import { HeadraceError, isErrorCode } from '../../shared/errors.ts'

/** A small client of the API: what the command line needs, and nothing a coordinator of another version would break. */

export interface Chat {
  readonly question: string
  readonly strategy?: string | undefined
  readonly workers?: number | undefined
  readonly maxTokens?: number | undefined
  readonly temperature: number
  readonly apiKey?: string | undefined
}

interface Progress {
  readonly total: number
  readonly processed: number
  readonly time_ms: number
}

/** The `prefill` object of an answer. */
export interface PrefillInfo {
  readonly run?: string
  readonly strategy: string
  readonly workers: readonly {
    id: string
    precision?: string
    spans: [number, number][]
    tokens: number
    compute_seconds?: number
    /** Of compute_seconds: sockets had the core. */
    moving_seconds?: number
    wait_seconds?: number
    send_seconds?: number
  }[]
  readonly links?: readonly { from: string; to: string; bytes: number }[]
  readonly decode: string
  readonly decode_precision?: string
  readonly mixed_precision?: boolean
  readonly queue_seconds: number
  readonly ttft_seconds: number
  readonly predicted_ttft_seconds: number
  readonly bottleneck?: string
}

export interface Timings {
  readonly prompt_n: number
  readonly prompt_per_second: number
  readonly predicted_n: number
  readonly predicted_per_second: number
}

export interface ChatChunk {
  readonly choices: readonly { delta?: { content?: string } }[]
  readonly prompt_progress?: Progress
  readonly prefill?: PrefillInfo
  readonly timings?: Timings
}

/** Asks, and yields what the stream brings until it is done. */
export async function* streamChat(url: string, chat: Chat, signal: AbortSignal): AsyncGenerator<ChatChunk, void> {
  const { question, strategy, workers, maxTokens, temperature, apiKey } = chat
  const answer = await request(`${url}/v1/chat/completions`, signal, apiKey, {
    messages: [{ role: 'user', content: question }],
    stream: true,
    return_progress: true,
    temperature,
    ...(maxTokens === undefined ? {} : { max_tokens: maxTokens }),
    headrace: { ...(strategy && { strategy }), ...(workers && { workers }) },
  })
  for await (const data of serverSentData(answer)) {
    if (data === '[DONE]') return
    const chunk = JSON.parse(data) as ChatChunk & ErrorAnswer
    if (chunk.error) throw apiError(chunk)
    yield chunk
  }
}

export async function getJson<T>(url: string, signal: AbortSignal, apiKey?: string): Promise<T> {
  const answer = await request(url, signal, apiKey)
  return (await answer.json()) as T
}

async function request(url: string, signal: AbortSignal, apiKey?: string, body?: object): Promise<Response> {
  const headers = {
    ...(apiKey === undefined ? {} : { authorization: `Bearer ${apiKey}` }),
    ...(body && { 'content-type': 'application/json' }),
  }
  const post = { method: 'POST', body: JSON.stringify(body) }
  const answer = await fetch(url, { signal, headers, ...(body && post) }).catch((cause: Error) => {
    throw signal.aborted ? cause : dialError(new URL(url), cause)
  })
  if (answer.ok) return answer
  throw apiError((await answer.json().catch(() => ({}))) as ErrorAnswer, answer.status)
}

/** "fetch failed" is all that an error of `fetch` says; what happened is in its cause. */
function dialError({ origin, protocol }: URL, failed: Error): HeadraceError {
  const cause = failed.cause as { code?: string; message?: string } | undefined
  const why = cause?.message || cause?.code || failed.message
  const untrusted = protocol === 'https:' && /CERT|SIGNED/.test(cause?.code ?? '')
  const hint = untrusted ? '; NODE_EXTRA_CA_CERTS=authority.pem, of the folder of the cluster, makes it trusted' : ''
  return new HeadraceError('dial_failed', `no coordinator answers at ${origin}: ${why}${hint}`, { cause: failed })
}

interface ErrorAnswer {
  readonly error?: { message: string; code: string | null }
}

function apiError({ error }: ErrorAnswer, status?: number): HeadraceError {
  const code = error?.code ?? ''
  return new HeadraceError(
    isErrorCode(code) ? code : 'internal',
    error?.message ?? `the coordinator answered ${status}`,
  )
}

/** The data of each event of a stream (one line each, as this API sends them); comments are passed over. */
export async function* serverSentData(answer: Response): AsyncGenerator<string, void> {
  const decoder = new TextDecoder()
  let text = ''
  for await (const piece of answer.body ?? []) {
    text += decoder.decode(piece as Uint8Array, { stream: true })
    const lines = text.split('\n')
    text = lines.pop() ?? ''
    for (const line of lines) if (line.startsWith('data: ')) yield line.slice(6)
  }
}
