import { HeadraceError } from '../../shared/errors.ts'
import type { FinishReason, TokenLogprob } from '../../shared/protocol/run-types.ts'
import type { Account } from '../keys/account.ts'
import type { RunEvent, RunReport } from '../runs/events.ts'
import { createTextStream } from '../tokenizer/text-stream.ts'
import type { Ask } from './ask.ts'
import type { ServerDeps } from './deps.ts'

/** A generated token with its log-probability; `offset` is where its text begins in the answer. */
export interface ScoredToken {
  readonly token: number
  readonly offset: number
  readonly logprob: TokenLogprob
}

/** An answer in the making: progress ..., started, text ..., then exactly one ended. */
export type Piece =
  | { readonly kind: 'progress'; readonly processed: number; readonly total: number; readonly seconds: number }
  | { readonly kind: 'started' }
  | { readonly kind: 'text'; readonly text: string; readonly scored: readonly ScoredToken[] }
  | { readonly kind: 'ended'; readonly reason: FinishReason; readonly report: RunReport }

/**
 * Runs a request on an account's bill and turns its tokens into text. A stop string lets the run end in good order, so that its report comes;
 * what is sampled until then is dropped. Leaving early cancels the run everywhere.
 */
export async function* generate(
  deps: ServerDeps,
  ask: Ask,
  account: Account,
  signal: AbortSignal,
): AsyncGenerator<Piece, void> {
  const answer = createAnswer(deps, ask)
  const enough = new AbortController()
  let tokens = 0
  const begin = (ends: AbortSignal) => deps.runs.run({ ...ask.request, enough: enough.signal }, ends)
  for await (const event of account.run(ask.request.promptTokens.length, begin, signal)) {
    switch (event.kind) {
      case 'planned':
      case 'prefilled':
      case 'logits':
      case 'failed_over':
        break
      case 'progress':
        yield event
        break
      case 'token':
        if (event.index === 0) yield { kind: 'started' }
        if (enough.signal.aborted) break
        tokens += 1
        if (yield* answer.take(event)) enough.abort()
        break
      case 'finished': {
        const stopped = enough.signal.aborted || (yield* answer.rest())
        const report = { ...event.report, completionTokens: tokens }
        yield { kind: 'ended', reason: stopped ? 'stop' : event.reason, report }
        return
      }
      default:
        event satisfies never
    }
  }
  throw new HeadraceError('internal', 'the run ended without a result')
}

/** Tokens to text pieces. Log-probabilities travel with the text of their tokens, and are cut off with it. */
function createAnswer({ tokenizer }: ServerDeps, { request, stops }: Ask) {
  const decoder = createTextStream((ids) => tokenizer.decode(ids, { skipSpecial: true }), stops)
  const endings = new Set(request.stopTokens)
  let waiting: ScoredToken[] = []
  let sent = 0

  function* emit({ text, stopped }: { text: string; stopped: boolean }, last: boolean): Generator<Piece, boolean> {
    sent += text.length
    if (text === '' && !last && !stopped) return false
    const scored = stopped ? waiting.filter(({ offset }) => offset < sent) : waiting
    waiting = []
    if (text !== '' || scored.length > 0) yield { kind: 'text', text, scored }
    return stopped
  }

  return {
    *take(event: Extract<RunEvent, { kind: 'token' }>): Generator<Piece, boolean> {
      if (endings.has(event.token)) return false
      const offset = decoder.decoded
      if (event.logprob !== undefined) waiting.push({ token: event.token, offset, logprob: event.logprob })
      return yield* emit(decoder.push(event.token), false)
    },
    rest: (): Generator<Piece, boolean> => emit(decoder.flush(), true),
  }
}
