import type { Tokenizer as HfTokenizer } from '@huggingface/tokenizers'

export type TokenBytes = (id: number) => Uint8Array

/**
 * The bytes of single tokens, for log-probabilities: a token may hold half a character, which no text can show.
 * Three spellings are in use: byte-level alphabets (GPT-2), `<0xE2>` (byte fallback) and `▁` for a space (SentencePiece).
 */
export function tokenBytesOf(hf: HfTokenizer, json: object): TokenBytes {
  const added = hf.get_added_tokens_decoder()
  const byteLevel = 'decoder' in json && JSON.stringify(json.decoder).includes('"ByteLevel"')
  const alphabet = byteLevel ? byteLevelAlphabet() : undefined
  const utf8 = new TextEncoder()

  return (id) => {
    const token = hf.id_to_token(id) ?? ''
    if (added.has(id)) return utf8.encode(token)
    if (alphabet !== undefined) return Uint8Array.from([...token], (character) => alphabet.get(character) ?? 0x3f)
    const fallback = /^<0x([0-9A-F]{2})>$/i.exec(token)?.[1]
    return fallback === undefined
      ? utf8.encode(token.replaceAll('▁', ' '))
      : Uint8Array.of(Number.parseInt(fallback, 16))
  }
}

/** GPT-2's map: printable Latin-1 stands for itself, the other 68 bytes for the characters from U+0100 on, in order. */
function byteLevelAlphabet(): ReadonlyMap<string, number> {
  const printable = (byte: number) => (byte > 0x20 && byte < 0x7f) || (byte > 0xa0 && byte !== 0xad && byte <= 0xff)
  let next = 0x100
  return new Map(
    Array.from({ length: 256 }, (_, byte) => [String.fromCodePoint(printable(byte) ? byte : next++), byte]),
  )
}
