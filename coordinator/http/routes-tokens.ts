import type { FastifyInstance } from 'fastify'
import type { ServerDeps } from './deps.ts'
import { parseWith } from './errors.ts'
import { checkTokenIds, encodePrompt } from './prompt.ts'
import { detokenizeSchema, tokenizeSchema } from './schemas.ts'

/** Counting tokens before sending a prompt. `content` is llama-server's field, `prompt` and `messages` are vLLM's. */
export function tokenRoutes(app: FastifyInstance, deps: ServerDeps): void {
  app.post('/tokenize', (request) => {
    const body = parseWith(tokenizeSchema, request.body)
    const param = body.messages !== undefined ? 'messages' : body.content !== undefined ? 'content' : 'prompt'
    const text = body.messages !== undefined ? deps.template.render(body.messages) : (body.content ?? body.prompt ?? '')
    const tokens = encodePrompt(deps, text, param)
    return { tokens, count: tokens.length, max_model_len: deps.model.contextLength }
  })

  app.post('/detokenize', (request) => {
    const { tokens } = parseWith(detokenizeSchema, request.body)
    checkTokenIds(deps, tokens, 'tokens')
    const text = deps.tokenizer.decode(tokens)
    return { content: text, prompt: text }
  })
}
