import { invalid } from './errors.ts'

/**
 * Options that change an answer and that Headrace does not have: refused by name, because ignoring them would give an
 * answer to another question. Each with the values that ask for nothing. Fields that are not listed are ignored.
 */
const HARMLESS: Readonly<Record<string, readonly unknown[]>> = {
  n: [1],
  best_of: [1],
  use_beam_search: [false],
  tools: [],
  tool_choice: ['none', 'auto'],
  functions: [],
  function_call: ['none', 'auto'],
  web_search_options: [],
  audio: [],
  suffix: [''],
  logit_bias: [],
  presence_penalty: [0],
  frequency_penalty: [0],
  repetition_penalty: [1],
  repeat_penalty: [1],
  min_p: [0],
  typical_p: [1],
  mirostat: [0],
  min_tokens: [0],
  stop_token_ids: [],
  prompt_logprobs: [false],
  grammar: [''],
  json_schema: [],
  guided_json: [],
  guided_regex: [],
  guided_choice: [],
  guided_grammar: [],
  structured_outputs: [],
  chat_template: [],
  continue_final_message: [false],
  add_generation_prompt: [true],
}

export function refuseUnsupported(body: unknown): void {
  if (typeof body !== 'object' || body === null) return
  for (const [param, value] of Object.entries(body)) {
    const harmless = Object.hasOwn(HARMLESS, param) ? HARMLESS[param] : undefined
    if (harmless === undefined || isNothing(value) || harmless.includes(value)) continue
    const only = harmless.length === 0 ? '' : ` (only ${harmless.map((v) => JSON.stringify(v)).join(' or ')})`
    throw invalid(param, `${param} is not supported${only}`)
  }
  refuseNested(body)
}

/** Answers are plain text, and a history with tool calls would lose them. */
function refuseNested(body: object): void {
  const format: unknown = 'response_format' in body ? body.response_format : undefined
  if (!isNothing(format) && (typeof format !== 'object' || !('type' in format!) || format.type !== 'text'))
    throw invalid('response_format', 'response_format is not supported (only {"type":"text"})')
  if ('modalities' in body && Array.isArray(body.modalities) && body.modalities.some((kind) => kind !== 'text'))
    throw invalid('modalities', 'modalities is not supported (only ["text"])')
  const messages: unknown = 'messages' in body ? body.messages : undefined
  for (const [at, message] of Array.isArray(messages) ? messages.entries() : [])
    for (const field of ['tool_calls', 'function_call'])
      if (!isNothing(message?.[field])) throw invalid(`messages.${at}.${field}`, `${field} is not supported`)
}

/** Absent in one of the ways in which clients say so. */
function isNothing(value: unknown): boolean {
  return value === null || value === undefined || (typeof value === 'object' && Object.keys(value).length === 0)
}
