import { Tokenizer as HfTokenizer } from '@huggingface/tokenizers'
import { z } from 'zod'
import { MAX_VOCAB } from '../../shared/config-schema.ts'
import { asHeadraceError, HeadraceError } from '../../shared/errors.ts'
import { readTokenizer, readTokenizerConfig } from '../../shared/model-folder.ts'
import { safeParse } from '../../shared/safe-parse.ts'
import { type TokenBytes, tokenBytesOf } from './token-bytes.ts'
import { within } from './within.ts'

/** Text to token ids and back, exactly as the model's own tokenizer says. */
export interface Tokenizer {
  /** One more than the largest id that has a text. */
  readonly vocabularySize: number
  /** No special token is added; the ones that stand in the text are recognised. */
  encode(text: string): number[]
  /** Ids without a text (a model's vocabulary may be padded) decode to nothing. */
  decode(ids: readonly number[], options?: { skipSpecial?: boolean }): string
  isSpecial(id: number): boolean
  /** The bytes one token stands for, which need not be whole characters. */
  bytesOf: TokenBytes
  /** No text of this length has fewer tokens. Tells a hopeless prompt from its length alone, before it is encoded. */
  fewestTokens(text: string): number
}

/** The tokenizer of a model's folder or file. */
export async function loadTokenizer(model: string): Promise<Tokenizer> {
  return createTokenizer(await readTokenizer(model), await readTokenizerConfig(model))
}

export function createTokenizer(json: object, config: object): Tokenizer {
  checkIds(json)
  const hf = openTokenizer(json, config)
  const special = new Set([...hf.get_added_tokens_decoder()].filter(([, token]) => token.special).map(([id]) => id))
  // The package lists ids without a text too, under none.
  const vocabulary = [...hf.get_vocab(true)].filter(([token]) => token !== undefined)
  const vocabularySize = vocabulary.reduce((size, [, id]) => Math.max(size, id + 1), 0)
  const longestToken = vocabulary.reduce((longest, [token]) => Math.max(longest, token.length), 1)

  return {
    vocabularySize,
    encode: (text) => encoded(hf, text),
    decode(ids, { skipSpecial = false } = {}) {
      const known = ids.filter((id) => hf.id_to_token(id) !== undefined && !(skipSpecial && special.has(id)))
      // Cleaning up spaces would change what the model wrote, and text would depend on where a stream is cut.
      return known.length === 0
        ? ''
        : usable('cannot write this text', () => hf.decode(known, { clean_up_tokenization_spaces: false }))
    },
    isSpecial: (id) => special.has(id),
    bytesOf: tokenBytesOf(hf, json),
    // A normalizer may shorten the text first, so then nothing is known.
    fewestTokens: (text) => (hf.normalizer === null ? Math.ceil(text.length / longestToken) : 0),
  }
}

/**
 * Ids become int32 on the wire, and rows of the embedding. The package puts texts into a list by id and walks through all
 * of it: one id of four billion keeps it busy for minutes.
 */
function checkIds(json: object): void {
  const { success, error } = safeParse(idsSchema, json)
  if (success) return
  const { path, message } = error.issues[0]!
  throw new HeadraceError('model_bad_tokenizer', `the tokenizer: ${path.join('.')}: ${message}`.slice(0, 200))
}

const id = z
  .number()
  .int()
  .min(0)
  .max(MAX_VOCAB - 1)
const idsSchema = z.looseObject({
  added_tokens: z.array(z.looseObject({ id, content: z.string() })).optional(),
  model: z.looseObject({
    vocab: z.union([z.record(z.string(), id), z.array(z.tuple([z.string(), z.number()])).max(MAX_VOCAB)]),
  }),
})

/** A vocabulary of a million tokens takes seconds. */
const OPENING_SECONDS = 120
/** Far above what any text takes, but not for ever: a pattern of the model may take exponential time. */
const secondsFor = (text: string): number => 10 + text.length / 10_000

function encoded(hf: HfTokenizer, text: string): number[] {
  const ids: number[] = usable('cannot read this text', () =>
    within(secondsFor(text), () => hf.encode(text, { add_special_tokens: false }).ids),
  )
  // A tokenizer whose unknown token is unknown has none for some texts.
  if (!ids.every((id) => Number.isInteger(id) && id >= 0))
    throw new HeadraceError('model_bad_tokenizer', 'the tokenizer has no token for a part of this text')
  return ids
}

function usable<T>(what: string, action: () => T): T {
  try {
    return action()
  } catch (thrown) {
    const { message } = asHeadraceError(thrown)
    throw new HeadraceError('model_bad_tokenizer', `the tokenizer ${what}: ${message}`, { cause: thrown })
  }
}

/** Some unknown parts are only found by using them. */
function openTokenizer(json: object, config: object): HfTokenizer {
  const hf = usable('cannot be used', () => within(OPENING_SECONDS, () => new HfTokenizer(json, config)))
  usable('cannot be used', () => within(secondsFor('a'), () => hf.encode('a')))
  return hf
}
