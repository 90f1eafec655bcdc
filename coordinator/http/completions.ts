import type { FastifyInstance } from 'fastify'
import type { Tokenizer } from '../tokenizer/tokenizer.ts'
import { answerHead } from './answer.ts'
import type { Voice } from './answer-events.ts'
import { type Ask, checkModel, toAsk } from './ask.ts'
import type { ModelFacts, ServerDeps } from './deps.ts'
import { invalid, parseWith } from './errors.ts'
import type { ScoredToken } from './generation.ts'
import { completionLogprobs } from './logprobs.ts'
import { checkTokenIds, encodePrompt, fitContext } from './prompt.ts'
import { respond } from './respond.ts'
import { type CompletionBody, completionSchema } from './schemas.ts'
import { refuseUnsupported } from './unsupported.ts'

export function completionRoutes(app: FastifyInstance, deps: ServerDeps): void {
  app.post('/v1/completions', (request, reply) =>
    respond(deps, request, reply, () => {
      const { ask, echo } = readCompletion(deps, request.body)
      return { ask, voice: completionVoice(deps.model, deps.tokenizer, ask, echo) }
    }),
  )
}

/** `echo` is the prompt's text, to be repeated before the answer; empty where it was not asked for. */
function readCompletion(deps: ServerDeps, raw: unknown): { ask: Ask; echo: string } {
  refuseUnsupported(raw)
  const body = parseWith(completionSchema, raw)
  checkModel(deps, body.model)
  if (body.echo && body.logprobs !== undefined)
    throw invalid('logprobs', 'logprobs together with echo is not supported: the prompt has none')
  const promptTokens = readPrompt(deps, body.prompt)
  const asked = body.max_tokens === undefined ? undefined : { param: 'max_tokens', tokens: body.max_tokens }
  const maxTokens = fitContext(deps, promptTokens.length, 'prompt', asked)
  const ask = toAsk(deps, body, { promptTokens, maxTokens, logprobs: body.logprobs })
  return { ask, echo: body.echo ? echoOf(deps, body.prompt) : '' }
}

function readPrompt(deps: ServerDeps, prompt: CompletionBody['prompt']): readonly number[] {
  if (typeof prompt === 'string') return encodePrompt(deps, prompt, 'prompt')
  checkTokenIds(deps, prompt, 'prompt')
  return prompt
}

const echoOf = ({ tokenizer }: ServerDeps, prompt: CompletionBody['prompt']) =>
  typeof prompt === 'string' ? prompt : tokenizer.decode(prompt)

function completionVoice(model: ModelFacts, tokenizer: Tokenizer, { request }: Ask, echo: string): Voice {
  const whole = answerHead('cmpl', 'text_completion', model)
  const choice = (text: string, scored: readonly ScoredToken[] | undefined, reason: string | null) => ({
    index: 0,
    text,
    logprobs:
      scored === undefined || request.sampling.logprobs === undefined
        ? null
        : completionLogprobs(tokenizer, scored, echo.length),
    finish_reason: reason,
  })
  return {
    whole,
    chunk: whole,
    opening: () => (echo === '' ? undefined : choice(echo, undefined, null)),
    delta: (text, scored) => choice(text, scored, null),
    closing: (reason) => choice('', undefined, reason),
    complete: (text, scored, reason) => choice(echo + text, scored, reason),
  }
}
