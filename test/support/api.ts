import { once } from 'node:events'
import type { AddressInfo } from 'node:net'
import OpenAI from 'openai'
import { pino } from 'pino'
import type { ServerDeps } from '../../coordinator/http/deps.ts'
import { KeptAnswers } from '../../coordinator/http/kept-answers.ts'
import { buildServer } from '../../coordinator/http/server.ts'
import { createCoordinatorMetrics } from '../../coordinator/metrics.ts'
import { measuredRuns } from '../../coordinator/run-metrics.ts'
import { loadChatTemplate } from '../../coordinator/tokenizer/chat-template.ts'
import { loadTokenizer } from '../../coordinator/tokenizer/tokenizer.ts'
import { RunStore } from '../../coordinator/trace/store.ts'
import { ManualClock } from './manual-clock.ts'
import { bundledModel } from './paths.ts'
import { type Script, ScriptedRuns, writes } from './scripted-runs.ts'

export const tokenizer = await loadTokenizer(bundledModel)
const template = await loadChatTemplate(bundledModel)

/** The API on a real port over scripted runs; `await using` closes it. */
export async function startApi(script: Script = writes([]), changes: Partial<ServerDeps> = {}) {
  const runs = new ScriptedRuns(script)
  const clock = new ManualClock()
  const metrics = createCoordinatorMetrics({ version: '0.0.0', model: 'logbook-7m' })
  const store = new RunStore()
  const logged: string[] = []
  const app = buildServer({
    runs: measuredRuns(runs, metrics, clock),
    tokenizer,
    template,
    model: {
      name: 'logbook-7m',
      layers: 8,
      contextLength: 2048,
      vocab: 4096,
      params: 6_955_264,
      bytes: 13_910_360,
      eosTokens: [4],
      fingerprint: 'ab'.repeat(32),
    },
    store,
    metrics,
    log: pino({ level: 'trace' }, { write: (line) => logged.push(line) }),
    clock,
    kept: new KeptAnswers(clock),
    ...changes,
  })
  await app.listen({ port: 0, host: '127.0.0.1' })
  const { port } = app.server.address() as AddressInfo
  const url = `http://127.0.0.1:${port}`
  return {
    runs,
    clock,
    store,
    metrics,
    app,
    port,
    url,
    logged,
    openai: new OpenAI({ baseURL: `${url}/v1`, apiKey: 'none', maxRetries: 0 }),
    post: (path: string, body: unknown, signal?: AbortSignal, headers: Readonly<Record<string, string>> = {}) =>
      fetch(url + path, {
        method: 'POST',
        headers: { 'content-type': 'application/json', ...headers },
        body: typeof body === 'string' ? body : JSON.stringify(body),
        ...(signal === undefined ? {} : { signal }),
      }),
    [Symbol.asyncDispose]: async () => {
      app.server.closeAllConnections()
      await app.close()
    },
  }
}

/** The parsed `data:` events of a stream, `[DONE]` as that string, comments as `{ comment }`. */
export async function* serverSentEvents(response: Response): AsyncGenerator<unknown, void> {
  let text = ''
  const decoder = new TextDecoder()
  for await (const piece of response.body ?? []) {
    text += decoder.decode(piece as Uint8Array, { stream: true })
    for (let end = text.indexOf('\n\n'); end >= 0; end = text.indexOf('\n\n')) {
      const event = text.slice(0, end)
      text = text.slice(end + 2)
      if (event.startsWith(': ')) yield { comment: event.slice(2) }
      else {
        const data = event.slice(event.indexOf('data: ') + 'data: '.length)
        yield data === '[DONE]' ? data : JSON.parse(data)
      }
    }
  }
}

export async function collect<T>(source: AsyncIterable<T>): Promise<T[]> {
  const items: T[] = []
  for await (const item of source) items.push(item)
  return items
}

export const allEvents = (response: Response): Promise<unknown[]> => collect(serverSentEvents(response))

/** Resolves when a signal aborts: how tests wait for a disconnection without guessing a time. */
export async function aborted(signal: AbortSignal): Promise<unknown> {
  if (!signal.aborted) await once(signal, 'abort')
  return signal.reason
}
