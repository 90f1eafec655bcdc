/**
 * A tokenizer of any size from 257 tokens on: the bytes, an end token, and words that text never becomes but ids decode
 * to. Byte-level, as GPT-2 and Llama 3 have it: every byte is written as one printable character.
 */

export const END_TOKEN = 256
const END_TEXT = '<|end|>'

export function tokenizerJson(vocab: number): object {
  const special = { single_word: false, lstrip: false, rstrip: false, normalized: false, special: true }
  const byteLevel = { type: 'ByteLevel', add_prefix_space: false, trim_offsets: true, use_regex: false }
  return {
    version: '1.0',
    truncation: null,
    padding: null,
    added_tokens: [{ id: END_TOKEN, content: END_TEXT, ...special }],
    normalizer: null,
    pre_tokenizer: byteLevel,
    post_processor: null,
    decoder: byteLevel,
    model: {
      type: 'BPE',
      dropout: null,
      unk_token: null,
      continuing_subword_prefix: null,
      end_of_word_suffix: null,
      fuse_unk: false,
      byte_fallback: false,
      ignore_merges: false,
      vocab: Object.fromEntries(tokenTexts(vocab).map((text, id) => [text, id])),
      merges: [],
    },
  }
}

export const tokenizerConfigJson = (contextLength: number): object => ({
  tokenizer_class: 'PreTrainedTokenizerFast',
  eos_token: END_TEXT,
  model_max_length: contextLength,
  chat_template: '{% for message in messages %}{{ message.content }}{% endfor %}',
})

/** What each id stands for, in the byte-level alphabet. */
export const tokenTexts = (vocab: number): string[] =>
  Array.from({ length: vocab }, (_, id) => (id < 256 ? byteCharacter(id) : id === END_TOKEN ? END_TEXT : `word${id}.`))

/** GPT-2's alphabet: printable Latin-1 stands for itself, the rest for characters from U+0100 on, in order. */
function byteCharacter(byte: number): string {
  if (isPrintable(byte)) return String.fromCharCode(byte)
  let before = 0
  for (let other = 0; other < byte; other++) if (!isPrintable(other)) before += 1
  return String.fromCharCode(256 + before)
}

const isPrintable = (byte: number): boolean =>
  (byte >= 33 && byte <= 126) || (byte >= 161 && byte <= 172) || (byte >= 174 && byte <= 255)
