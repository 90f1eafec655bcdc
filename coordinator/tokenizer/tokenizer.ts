import { Tokenizer as HfTokenizer } from '@huggingface/tokenizers'
import { asHeadraceError, HeadraceError } from '../../shared/errors.ts'
import { readTokenizer, readTokenizerConfig } from '../../shared/model-folder.ts'
import { type TokenBytes, tokenBytesOf } from './token-bytes.ts'

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
  const hf = openTokenizer(json, config)
  const special = new Set([...hf.get_added_tokens_decoder()].filter(([, token]) => token.special).map(([id]) => id))
  // The package lists ids without a text too, under none.
  const vocabulary = [...hf.get_vocab(true)].filter(([token]) => token !== undefined)
  const vocabularySize = vocabulary.reduce((size, [, id]) => Math.max(size, id + 1), 0)
  const longestToken = vocabulary.reduce((longest, [token]) => Math.max(longest, token.length), 1)

  return {
    vocabularySize,
    encode: (text) => hf.encode(text, { add_special_tokens: false }).ids,
    decode(ids, { skipSpecial = false } = {}) {
      const known = ids.filter((id) => hf.id_to_token(id) !== undefined && !(skipSpecial && special.has(id)))
      // Cleaning up spaces would change what the model wrote, and text would depend on where a stream is cut.
      return known.length === 0 ? '' : hf.decode(known, { clean_up_tokenization_spaces: false })
    },
    isSpecial: (id) => special.has(id),
    bytesOf: tokenBytesOf(hf, json),
    // A normalizer may shorten the text first, so then nothing is known.
    fewestTokens: (text) => (hf.normalizer === null ? Math.ceil(text.length / longestToken) : 0),
  }
}

function openTokenizer(json: object, config: object): HfTokenizer {
  try {
    const hf = new HfTokenizer(json, config)
    hf.encode('a') // some unknown parts are only found by using them
    return hf
  } catch (thrown) {
    const { message } = asHeadraceError(thrown)
    throw new HeadraceError('model_bad_tokenizer', `the tokenizer cannot be used: ${message}`, { cause: thrown })
  }
}
