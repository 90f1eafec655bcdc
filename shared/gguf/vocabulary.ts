import { HeadraceError } from '../errors.ts'
import type { Metadata } from './metadata.ts'

/** Kinds of a token, as `llama_token_type` numbers them. */
export const TOKEN_KIND = { normal: 1, unknown: 2, control: 3, userDefined: 4, unused: 5, byte: 6 } as const

export interface Token {
  readonly id: number
  readonly text: string
  readonly kind: number
  /** Log-probability (unigram), or how early SentencePiece's BPE makes it: the higher, the earlier. */
  readonly score: number
}

/** The vocabulary of a file, by id. No text stands for two tokens: `model_bad_tokenizer`. */
export function readVocabulary(metadata: Metadata): Token[] {
  const texts = metadata.texts('tokenizer.ggml.tokens')
  if (texts === undefined || texts.length === 0) throw bad(metadata, 'it has no vocabulary')
  const kinds = metadata.numbers('tokenizer.ggml.token_type')
  const scores = metadata.numbers('tokenizer.ggml.scores')
  for (const list of [kinds, scores])
    if (list !== undefined && list.length !== texts.length)
      throw bad(metadata, `it has ${texts.length} tokens, but ${list.length} kinds or scores of them`)
  const seen = new Set<string>()
  return texts.map((found, id) => {
    const text = found === '' ? `[EMPTY_${id}]` : found // as llama.cpp calls them: nothing can be looked up under no text
    if (seen.has(text)) throw bad(metadata, `two tokens are ${JSON.stringify(text.slice(0, 100))}`)
    seen.add(text)
    return { id, text, kind: kinds?.[id] ?? TOKEN_KIND.normal, score: scores?.[id] ?? 0 }
  })
}

/** The id that `tokenizer.ggml.<name>_token_id` has, if it is one of the vocabulary. */
export function namedToken(metadata: Metadata, name: string, count = Number.POSITIVE_INFINITY): number | undefined {
  const id = metadata.number(`tokenizer.ggml.${name}_token_id`)
  return id !== undefined && Number.isInteger(id) && id >= 0 && id < count ? id : undefined
}

/** Ends of an answer or of a turn that files know only as control tokens. llama.cpp stops at them too. */
const ENDS = new Set([
  '<|eot_id|>',
  '<|eom_id|>',
  '<|im_end|>',
  '<|end|>',
  '<end_of_turn>',
  '<|endoftext|>',
  '<|end_of_text|>',
  '<EOT>',
  '<end_of_utterance>',
])

/** The ids that end an answer, the one that the file calls so first. A file without a vocabulary may still name them. */
export function endTokens(metadata: Metadata): number[] {
  const tokens = metadata.has('tokenizer.ggml.tokens') ? readVocabulary(metadata) : undefined
  const named = ['eos', 'eot', 'eom'].map((name) => namedToken(metadata, name, tokens?.length))
  const byText = tokens?.filter(({ kind, text }) => kind === TOKEN_KIND.control && ENDS.has(text)).map(({ id }) => id)
  return [...new Set([...named.filter((id) => id !== undefined), ...(byText ?? [])])]
}

export const bad = (metadata: Metadata, what: string) =>
  new HeadraceError('model_bad_tokenizer', `${metadata.file}: ${what}`)
