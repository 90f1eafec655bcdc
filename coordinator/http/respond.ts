import { setImmediate } from 'node:timers/promises'
import type { FastifyReply, FastifyRequest } from 'fastify'
import { abortError, asHeadraceError, HeadraceError } from '../../shared/errors.ts'
import { accountOf } from './access.ts'
import { answerEvents, mostBytesOf, type Voice } from './answer-events.ts'
import type { AnswerEvent } from './answer-log.ts'
import { type Ask, checkCluster } from './ask.ts'
import { clientGone } from './client.ts'
import type { ServerDeps } from './deps.ts'
import { errorBody, httpError } from './errors.ts'
import { keepUnder, type Repeatable, repeatable, resumeAt } from './idempotency-key.ts'
import type { Kept } from './kept-answers.ts'
import { openSse, type SseStream } from './sse.ts'

const DEFAULT_PING_SECONDS = 15

/** A request that has been checked, and how its answer is worded. */
export interface Question {
  readonly ask: Ask
  readonly voice: Voice
}

/** What goes out to one client. */
interface Outgoing {
  readonly id: string
  readonly stream: boolean
  /** The position of the first event. */
  readonly from: number
  readonly events: AsyncGenerator<AnswerEvent, void>
  readonly gone: AbortController
}

/**
 * Answers a request, whole or as a stream: by a run of its own, or, with an `Idempotency-Key`, by the one run of that
 * key. A refusal of the cluster is a plain HTTP error in all cases.
 * @param read checks the body; not called for an answer that is there already
 */
export async function respond(
  deps: ServerDeps,
  request: FastifyRequest,
  reply: FastifyReply,
  read: () => Question,
): Promise<unknown> {
  const repeated = repeatable(request)
  const gone = clientGone(reply)
  if (repeated === undefined) {
    const question = readQuestion(deps, read)
    const events = answerEvents(deps, question, accountOf(request), gone.signal)
    return send(deps, reply, { id: question.voice.whole.id, stream: question.ask.stream, from: 0, events, gone })
  }
  const { log, stream } = keptAnswer(deps, request, reply, repeated, read)
  const from = stream ? resumeAt(request, log.id) : 0
  return send(deps, reply, { id: log.id, stream, from, events: log.read(from, gone.signal), gone })
}

function readQuestion(deps: ServerDeps, read: () => Question): Question {
  const question = read()
  const { request } = question.ask
  checkCluster(deps, request)
  if (deps.logPrompts) {
    const prompt = deps.tokenizer.decode([...request.promptTokens])
    deps.log.info({ id: question.voice.whole.id, prompt }, 'prompt')
  }
  return question
}

function keptAnswer(
  deps: ServerDeps,
  request: FastifyRequest,
  reply: FastifyReply,
  repeated: Repeatable,
  read: () => Question,
): Kept {
  const found = deps.kept.find(repeated)
  deps.metrics.idempotent.inc({ outcome: found === undefined ? 'begun' : found.finished ? 'replayed' : 'attached' })
  if (found !== undefined) {
    void reply.header('idempotent-replayed', 'true')
    return found
  }
  const { ask, voice } = readQuestion(deps, read)
  const question = { ask: { ...ask, request: { ...ask.request, keepUnder: keepUnder(repeated) } }, voice }
  const account = accountOf(request)
  const make = (signal: AbortSignal) => answerEvents(deps, question, account, signal)
  return deps.kept.begin(repeated, { id: voice.whole.id, stream: ask.stream, mostBytes: mostBytesOf(ask), make })
}

async function send(deps: ServerDeps, reply: FastifyReply, out: Outgoing): Promise<unknown> {
  const { events, gone } = out
  if (!out.stream) {
    const { value } = await events.next()
    await events.return()
    if (value === undefined) throw new HeadraceError('internal', 'the answer has no end')
    return reply.type('application/json; charset=utf-8').send(value.data)
  }
  const first = events.next()
  // Admission decides within this turn of the event loop: a full queue is not yet a stream.
  await Promise.race([first, setImmediate()])
  if (gone.signal.aborted) throw abortError(gone.signal)
  reply.hijack()
  for (const [name, value] of Object.entries(reply.getHeaders()))
    if (value !== undefined) reply.raw.setHeader(name, value)
  const sse = openSse(reply.raw, { clock: deps.clock, pingSeconds: deps.pingSeconds ?? DEFAULT_PING_SECONDS, gone })
  try {
    await sendEvents(sse, first, out)
  } catch (thrown) {
    if (gone.signal.aborted) deps.log.info({ reason: abortError(gone.signal).message }, 'client left')
    else await sendLastError(deps, sse, thrown)
  } finally {
    sse.end()
  }
  return reply
}

async function sendEvents(
  sse: SseStream,
  first: Promise<IteratorResult<AnswerEvent, void>>,
  { id, from, events }: Outgoing,
): Promise<void> {
  let position = from
  try {
    for (let step = await first; !step.done; step = await events.next()) {
      await sse.send(step.value.data, `${id}.${position}`)
      position += 1
    }
  } finally {
    // Also when the client cannot be written to: leaving the generator ends a run that is this client's alone.
    await events.return()
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
