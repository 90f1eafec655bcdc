import type { FastifyInstance } from 'fastify'
import type { Tokenizer } from '../tokenizer/tokenizer.ts'
import { answerHead } from './answer.ts'
import type { Voice } from './answer-events.ts'
import { type Ask, checkModel, toAsk } from './ask.ts'
import type { ModelFacts, ServerDeps } from './deps.ts'
import { parseWith } from './errors.ts'
import { chatLogprobs } from './logprobs.ts'
import { encodePrompt, fitContext } from './prompt.ts'
import { respond } from './respond.ts'
import { chatSchema } from './schemas.ts'
import { refuseUnsupported } from './unsupported.ts'

export function chatRoutes(app: FastifyInstance, deps: ServerDeps): void {
  app.post('/v1/chat/completions', (request, reply) =>
    respond(deps, request, reply, () => {
      const ask = readChat(deps, request.body)
      return { ask, voice: chatVoice(deps.model, deps.tokenizer, ask) }
    }),
  )
}

function readChat(deps: ServerDeps, raw: unknown): Ask {
  refuseUnsupported(raw)
  const body = parseWith(chatSchema, raw)
  checkModel(deps, body.model)
  const text = body.messages.length === 0 ? '' : deps.template.render(body.messages)
  const promptTokens = encodePrompt(deps, text, 'messages')
  const maxTokens = fitContext(deps, promptTokens.length, 'messages', askedTokens(body))
  return toAsk(deps, body, { promptTokens, maxTokens, logprobs: body.logprobs ? (body.top_logprobs ?? 0) : undefined })
}

/** OpenAI's newer name wins where a client sends both. */
function askedTokens(body: { max_tokens?: number | undefined; max_completion_tokens?: number | undefined }) {
  if (body.max_completion_tokens !== undefined)
    return { param: 'max_completion_tokens', tokens: body.max_completion_tokens }
  return body.max_tokens === undefined ? undefined : { param: 'max_tokens', tokens: body.max_tokens }
}

function chatVoice(model: ModelFacts, tokenizer: Tokenizer, { request }: Ask): Voice {
  const whole = answerHead('chatcmpl', 'chat.completion', model)
  const scores = (scored: Parameters<typeof chatLogprobs>[1]) =>
    request.sampling.logprobs === undefined ? null : chatLogprobs(tokenizer, scored)
  const delta = (fields: object, logprobs: object | null = null) => ({
    index: 0,
    delta: fields,
    logprobs,
    finish_reason: null,
  })
  return {
    whole,
    chunk: { ...whole, object: 'chat.completion.chunk' },
    opening: () => delta({ role: 'assistant', content: '' }),
    delta: (text, scored) => delta({ content: text }, scores(scored)),
    closing: (reason) => ({ ...delta({}), finish_reason: reason }),
    complete: (text, scored, reason) => ({
      index: 0,
      message: { role: 'assistant', content: text, refusal: null },
      logprobs: scores(scored),
      finish_reason: reason,
    }),
  }
}
