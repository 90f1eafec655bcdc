import { Template } from '@huggingface/jinja'
import { asHeadraceError, HeadraceError } from '../../shared/errors.ts'
import { readChatTemplate, readTokenizerConfig } from '../../shared/model-folder.ts'
import { boundedRange, boundTemplate } from './bounded-template.ts'
import { within } from './within.ts'

export interface ChatMessage {
  readonly role: string
  readonly content: string
}

/** Messages to the text that the model was trained on, with the generation prompt at its end. */
export interface ChatTemplate {
  render(messages: readonly ChatMessage[]): string
}

export async function loadChatTemplate(model: string): Promise<ChatTemplate> {
  return createChatTemplate(await readChatTemplate(model), await readTokenizerConfig(model))
}

/** Ten thousand messages take a tenth of a second. */
const MOST_SECONDS = 2

/** A model without a template still serves completions: the lack is an error of the chat request. */
export function createChatTemplate(source: string | undefined, config: object): ChatTemplate {
  const template = source === undefined ? undefined : parse(source)
  const specialTokens = namedTokens(config)
  return {
    render(messages) {
      if (template === undefined) throw refused('the model has no chat template; use /v1/completions')
      try {
        const values = { ...specialTokens, ...boundedRange, messages, tools: null, add_generation_prompt: true }
        return within(MOST_SECONDS, () => template.render(values))
      } catch (thrown) {
        // A template may refuse by `raise_exception` or stumble over a shape it was not written for: the request's fault.
        throw refused(`the model's chat template refuses these messages: ${asHeadraceError(thrown).message}`, thrown)
      }
    },
  }
}

/** The package trims blocks as transformers does (`trim_blocks`, `lstrip_blocks`); Jinja also reads CRLF as LF. */
function parse(source: string): Template {
  try {
    return boundTemplate(new Template(source.replace(/\r\n?/g, '\n')))
  } catch (thrown) {
    if (thrown instanceof HeadraceError) throw thrown
    const { message } = asHeadraceError(thrown)
    throw new HeadraceError('model_bad_tokenizer', `the chat template cannot be parsed: ${message}`, { cause: thrown })
  }
}

/** `bos_token`, `eos_token` and their like: a string, or an object that holds it as `content`. */
function namedTokens(config: object): Record<string, string> {
  const named: Record<string, string> = {}
  for (const [name, value] of Object.entries(config)) {
    if (!name.endsWith('_token')) continue
    const text: unknown = typeof value === 'object' && value !== null ? value.content : value
    if (typeof text === 'string') named[name] = text
  }
  return named
}

const refused = (message: string, cause?: unknown) =>
  new HeadraceError('invalid_request', message, { cause, details: { param: 'messages' } })
