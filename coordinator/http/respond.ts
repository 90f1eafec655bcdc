import { setImmediate } from 'node:timers/promises'
import type { FastifyReply } from 'fastify'
import { abortError, asHeadraceError, HeadraceError } from '../../shared/errors.ts'
import type { FinishReason } from '../../shared/protocol/run-types.ts'
import type { RunReport } from '../runs/events.ts'
import { type Head, prefillOf, timingsOf, usageOf } from './answer.ts'
import { type Ask, checkCluster } from './ask.ts'
import { clientGone } from './client.ts'
import type { ServerDeps } from './deps.ts'
import { errorBody, httpError } from './errors.ts'
import { generate, type Piece, type ScoredToken } from './generation.ts'
import { openSse, type SseStream } from './sse.ts'

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

const DEFAULT_PING_SECONDS = 15

/** Runs a checked request and answers it, whole or as a stream. A refusal of the cluster is a plain HTTP error in both. */
export async function respond(deps: ServerDeps, reply: FastifyReply, ask: Ask, voice: Voice): Promise<object> {
  checkCluster(deps, ask.request)
  const gone = clientGone(reply)
  const pieces = generate(deps, ask, gone.signal)
  if (!ask.stream) return await answerWhole(pieces, voice)

  const first = pieces.next()
  // Admission decides within this turn of the event loop: a full queue is not yet a stream.
  await Promise.race([first, setImmediate()])
  if (gone.signal.aborted) throw abortError(gone.signal)
  reply.hijack()
  const sse = openSse(reply.raw, {
    clock: deps.clock,
    pingSeconds: deps.pingSeconds ?? DEFAULT_PING_SECONDS,
    gone,
  })
  try {
    await answerStream(sse, first, pieces, ask, voice)
  } catch (thrown) {
    if (gone.signal.aborted) deps.log.info({ reason: abortError(gone.signal).message }, 'client left')
    else await sendLastError(deps, sse, thrown)
  } finally {
    sse.end()
  }
  return reply
}

async function answerWhole(pieces: Pieces, voice: Voice): Promise<object> {
  let text = ''
  const scored: ScoredToken[] = []
  for await (const piece of pieces) {
    if (piece.kind === 'text') {
      text += piece.text
      scored.push(...piece.scored)
    } else if (piece.kind === 'ended') {
      return {
        ...voice.whole,
        choices: [voice.complete(text, scored, piece.reason)],
        usage: usageOf(piece.report),
        ...accountOf(piece.report),
      }
    }
  }
  throw new HeadraceError('internal', 'the answer has no end')
}

/** The order that clients rely on: progress, role, text, finish reason, usage, `[DONE]`. */
async function answerStream(
  sse: SseStream,
  first: Promise<IteratorResult<Piece, void>>,
  rest: Pieces,
  ask: Ask,
  voice: Voice,
) {
  const usageSoFar = ask.includeUsage ? { usage: null } : {}
  const chunk = (choices: object[], extra: object = usageSoFar) =>
    sse.send(JSON.stringify({ ...voice.chunk, choices, ...extra }))
  const opening = voice.opening()
  let opened = opening === undefined
  const open = async () => {
    if (!opened && opening !== undefined) await chunk([opening])
    opened = true
  }

  try {
    for (let step = await first; !step.done; step = await rest.next()) {
      const piece = step.value
      switch (piece.kind) {
        case 'progress':
          if (ask.progress) await chunk([], { ...usageSoFar, prompt_progress: progressOf(piece) })
          break
        case 'started':
          await open()
          break
        case 'text':
          await open()
          await chunk([voice.delta(piece.text, piece.scored)])
          break
        case 'ended':
          await open()
          await chunk([voice.closing(piece.reason)], { ...usageSoFar, ...accountOf(piece.report) })
          if (ask.includeUsage) await chunk([], { usage: usageOf(piece.report) })
          await sse.send('[DONE]')
          break
        default:
          piece satisfies never
      }
    }
  } finally {
    // Also when the client cannot be written to: leaving the generator cancels the run on every worker.
    await rest.return()
  }
}

/** The headers are out, so the error is the stream's last event. */
async function sendLastError(deps: ServerDeps, sse: SseStream, thrown: unknown): Promise<void> {
  const error = httpError(thrown)
  deps.log.error({ err: asHeadraceError(thrown), code: error.code }, 'a stream ended by an error')
  try {
    await sse.send(JSON.stringify(errorBody(error)))
  } catch {
    // The client left meanwhile: there is nobody to tell.
  }
}

const accountOf = (report: RunReport) => ({ timings: timingsOf(report), prefill: prefillOf(report) })

/** llama.cpp's names. What is stored already is not known before the run's report. */
const progressOf = ({ total, processed, seconds }: Extract<Piece, { kind: 'progress' }>) => ({
  total,
  cache: 0,
  processed,
  time_ms: seconds * 1000,
})
