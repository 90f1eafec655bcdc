import { HeadraceError } from '../../shared/errors.ts'
import type { ServerDeps } from './deps.ts'
import { invalid } from './errors.ts'

type PromptDeps = Pick<ServerDeps, 'tokenizer' | 'model' | 'metrics' | 'clock'>

/** Text to token ids. A text that is hopelessly long is refused by its length, before it blocks the process. */
export function encodePrompt(deps: PromptDeps, text: string, param: string): number[] {
  const fewest = deps.tokenizer.fewestTokens(text)
  if (fewest > deps.model.contextLength) throw tooLong(deps, param, `at least ${fewest}`)
  const started = deps.clock.now()
  const tokens = deps.tokenizer.encode(text)
  deps.metrics.phase.observe({ phase: 'tokenize' }, deps.clock.now() - started)
  return tokens
}

export function checkTokenIds(deps: PromptDeps, tokens: readonly number[], param: string): void {
  const stranger = tokens.find((id) => id >= deps.model.vocab)
  if (stranger !== undefined)
    throw invalid(param, `token id ${stranger} is outside the vocabulary of ${deps.model.vocab}`)
}

/** How many tokens may be generated: what was asked for, or a sensible answer's length within the context left. */
export function fitContext(deps: PromptDeps, prompt: number, param: string, asked?: { param: string; tokens: number }) {
  if (prompt === 0) throw new HeadraceError('empty_prompt', 'the prompt has no tokens', { details: { param } })
  const { contextLength } = deps.model
  const left = contextLength - prompt
  if (left < 1) throw tooLong(deps, param, String(prompt))
  if (asked === undefined) return Math.min(DEFAULT_MAX_TOKENS, left)
  if (asked.tokens <= left) return asked.tokens
  throw new HeadraceError(
    'context_length_exceeded',
    `This model's maximum context length is ${contextLength} tokens; your ${param} ${have(param)} ${prompt} ` +
      `and ${asked.param} asks for ${asked.tokens} more (${prompt + asked.tokens} in total).`,
    { details: { param: asked.param, promptTokens: prompt, contextLength } },
  )
}

const DEFAULT_MAX_TOKENS = 512

const tooLong = ({ model: { contextLength } }: PromptDeps, param: string, count: string) =>
  new HeadraceError(
    'context_length_exceeded',
    `This model's maximum context length is ${contextLength} tokens; your ${param} ${have(param)} ${count}.`,
    { details: { param, contextLength } },
  )

const have = (param: string) => (param === 'messages' ? 'have' : 'has')
