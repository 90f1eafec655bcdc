import { HeadraceError } from '../../shared/errors.ts'
import type { FinishReason } from '../../shared/protocol/run-types.ts'
import type { Account } from '../keys/account.ts'
import type { RunReport } from '../runs/events.ts'
import { type Head, prefillOf, timingsOf, usageOf } from './answer.ts'
import type { AnswerEvent } from './answer-log.ts'
import type { Ask } from './ask.ts'
import type { ServerDeps } from './deps.ts'
import { generate, type Piece, type ScoredToken } from './generation.ts'

/** How one API words an answer: the `choices` entry of a whole answer and of each kind of chunk. */
export interface Voice {
  readonly whole: Head
  readonly chunk: Head
  /** Before the first text, where the API has something to say there. */
  opening(): object | undefined
  delta(text: string, scored: readonly ScoredToken[]): object
  closing(reason: FinishReason): object
  complete(text: string, scored: readonly ScoredToken[], reason: FinishReason): object
}

type Pieces = AsyncGenerator<Piece, void>

/** Runs a request and words its answer: every event of a stream, or one whole answer. Leaving it cancels the run. */
export function answerEvents(
  deps: ServerDeps,
  { ask, voice }: { readonly ask: Ask; readonly voice: Voice },
  account: Account,
  signal: AbortSignal,
): AsyncGenerator<AnswerEvent, void> {
  const pieces = generate(deps, ask, account, signal)
  return ask.stream ? streamOf(pieces, ask, voice) : wholeOf(pieces, voice)
}

async function* wholeOf(pieces: Pieces, voice: Voice): AsyncGenerator<AnswerEvent, void> {
  let text = ''
  const scored: ScoredToken[] = []
  for await (const piece of pieces) {
    if (piece.kind === 'text') {
      text += piece.text
      scored.push(...piece.scored)
    } else if (piece.kind === 'ended') {
      const answer = {
        ...voice.whole,
        choices: [voice.complete(text, scored, piece.reason)],
        usage: usageOf(piece.report),
        ...costsOf(piece.report),
      }
      yield { data: JSON.stringify(answer), tells: true }
      return
    }
  }
  throw new HeadraceError('internal', 'the answer has no end')
}

/** The order that clients rely on: progress, role, text, finish reason, usage, `[DONE]`. */
async function* streamOf(pieces: Pieces, ask: Ask, voice: Voice): AsyncGenerator<AnswerEvent, void> {
  const usageSoFar = ask.includeUsage ? { usage: null } : {}
  const chunk = (choices: object[], extra: object, tells: boolean): AnswerEvent => ({
    data: JSON.stringify({ ...voice.chunk, choices, ...extra }),
    tells,
  })
  let opening = voice.opening()
  function* open(): Generator<AnswerEvent, void> {
    if (opening !== undefined) yield chunk([opening], usageSoFar, false)
    opening = undefined
  }

  for await (const piece of pieces) {
    switch (piece.kind) {
      case 'progress':
        if (ask.progress) yield chunk([], { ...usageSoFar, prompt_progress: progressOf(piece) }, false)
        break
      case 'started':
        yield* open()
        break
      case 'text':
        yield* open()
        yield chunk([voice.delta(piece.text, piece.scored)], usageSoFar, true)
        break
      case 'ended':
        yield* open()
        yield chunk([voice.closing(piece.reason)], { ...usageSoFar, ...costsOf(piece.report) }, true)
        if (ask.includeUsage) yield chunk([], { usage: usageOf(piece.report) }, true)
        yield { data: '[DONE]', tells: true }
        break
      default:
        piece satisfies never
    }
  }
}

/** Room for what does not depend on the answer's length: its head, progress, and the account of the run. */
const FIXED_BYTES = 256 * 1024
/** A chunk around each token, as text in memory; and each log-probability in it. */
const TOKEN_BYTES = 1024
const SCORE_BYTES = 256

/** Most memory that an answer is expected to take. */
export function mostBytesOf({ request }: Ask): number {
  const { logprobs } = request.sampling
  const scores = logprobs === undefined ? 0 : SCORE_BYTES * (1 + logprobs)
  return FIXED_BYTES + request.maxTokens * (TOKEN_BYTES + scores)
}

const costsOf = (report: RunReport) => ({ timings: timingsOf(report), prefill: prefillOf(report) })

/** llama.cpp's names. What is stored already is not known before the run's report. */
const progressOf = ({ total, processed, seconds }: Extract<Piece, { kind: 'progress' }>) => ({
  total,
  cache: 0,
  processed,
  time_ms: seconds * 1000,
})
