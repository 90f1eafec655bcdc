import assert from 'node:assert/strict'
import { describe, it } from 'node:test'
import fc from 'fast-check'
import { createTextStream, type TextStream } from '../../../coordinator/tokenizer/text-stream.ts'
import { loadTokenizer } from '../../../coordinator/tokenizer/tokenizer.ts'
import { bundledModel } from '../../support/paths.ts'

const tokenizer = await loadTokenizer(bundledModel)
const SEED = { seed: 20_260_801, numRuns: 300 }

const utf8 = new TextDecoder()
/** Tokens that are single bytes: the hardest cut there is. */
const decodeBytes = (ids: readonly number[]) => utf8.decode(Uint8Array.from(ids))
const bytesOf = (text: string) => [...new TextEncoder().encode(text)]

/** Decodes as SentencePiece does: every token begins with a space, the text's first space is dropped. */
const decodeWords = (ids: readonly number[]) =>
  ids
    .map((id) => ` w${id}`)
    .join('')
    .slice(1)

function runThrough(stream: TextStream, tokens: readonly number[]) {
  const pieces: string[] = []
  for (const token of tokens) {
    const { text, stopped } = stream.push(token)
    pieces.push(text)
    if (stopped) return { pieces, text: pieces.join(''), stopped }
  }
  const { text, stopped } = stream.flush()
  pieces.push(text)
  return { pieces, text: pieces.join(''), stopped }
}

/** The meaning of stop strings, read off the whole text: the one that ends first cuts where it begins. */
function cut(text: string, stops: readonly string[]): { text: string; stopped: boolean } {
  for (let end = 1; end <= text.length; end++) {
    const ending = stops.filter((stop) => text.slice(0, end).endsWith(stop))
    const longest = Math.max(0, ...ending.map((stop) => stop.length))
    if (longest > 0) return { text: text.slice(0, end - longest), stopped: true }
  }
  return { text, stopped: false }
}

describe('text from tokens', () => {
  it('is the same in pieces as at once, whatever the text', () => {
    fc.assert(
      fc.property(fc.string({ unit: 'grapheme', maxLength: 60 }), (text) => {
        assert.equal(runThrough(createTextStream(decodeBytes, []), bytesOf(text)).text, text)
        const ids = tokenizer.encode(text)
        assert.equal(runThrough(createTextStream(tokenizer.decode, []), ids).text, tokenizer.decode(ids))
      }),
      SEED,
    )
  })

  it('never shows half a character', () => {
    fc.assert(
      fc.property(fc.string({ unit: 'binary', maxLength: 40 }), (text) => {
        fc.pre(!text.includes('\uFFFD') && !text.startsWith('\uFEFF'))
        const { pieces } = runThrough(createTextStream(decodeBytes, []), bytesOf(text))
        for (const piece of pieces) assert.doesNotMatch(piece, /\uFFFD|\p{Surrogate}/u)
      }),
      SEED,
    )
  })

  it('is the same in pieces as at once even for bytes that are no text', () => {
    fc.assert(
      fc.property(fc.array(fc.integer({ min: 0, max: 255 }), { maxLength: 60 }), (bytes) => {
        assert.equal(runThrough(createTextStream(decodeBytes, []), bytes).text, decodeBytes(bytes))
      }),
      SEED,
    )
  })

  it('is the same in pieces as at once for any ids of the model', () => {
    fc.assert(
      fc.property(fc.array(fc.integer({ min: 0, max: 4200 }), { maxLength: 60 }), (ids) => {
        const decode = (part: readonly number[]) => tokenizer.decode(part, { skipSpecial: true })
        assert.equal(runThrough(createTextStream(decode, []), ids).text, decode(ids))
      }),
      SEED,
    )
  })

  it('keeps the spaces of tokenizers that strip the first one', () => {
    assert.deepEqual(runThrough(createTextStream(decodeWords, []), [1, 2, 3]).pieces, ['w1', ' w2', ' w3', ''])
  })

  it('waits for the rest of a character and shows it whole', () => {
    const { pieces } = runThrough(createTextStream(decodeBytes, []), bytesOf('a€b'))
    assert.deepEqual(pieces, ['a', '', '', '€', 'b', ''])
  })

  it('shows what is left when the answer ends within a character', () => {
    const { pieces } = runThrough(createTextStream(decodeBytes, []), [0x61, 0xe2, 0x82])
    assert.deepEqual(pieces, ['a', '', '', '\uFFFD'])
  })

  it('does not wait for ever when the model writes only broken bytes', () => {
    const stream = createTextStream(decodeBytes, [])
    const pieces = Array.from({ length: 2000 }, () => stream.push(0x80).text)
    assert.ok(pieces.join('').length >= 1999)
  })
})

describe('a stop string', () => {
  const letters = fc.string({ unit: fc.constantFrom('a', 'b', '€'), maxLength: 24 })
  const stops = fc.array(fc.string({ unit: fc.constantFrom('a', 'b', '€'), minLength: 1, maxLength: 5 }), {
    maxLength: 4,
  })

  it('cuts where the whole text would be cut, however the tokens fall', () => {
    fc.assert(
      fc.property(letters, stops, (text, strings) => {
        const expected = cut(text, strings)
        const bytewise = runThrough(createTextStream(decodeBytes, strings), bytesOf(text))
        assert.deepEqual({ text: bytewise.text, stopped: bytewise.stopped }, expected)
        const whole = runThrough(createTextStream(tokenizer.decode, strings), tokenizer.encode(text))
        assert.deepEqual({ text: whole.text, stopped: whole.stopped }, expected)
      }),
      { ...SEED, numRuns: 2000 },
    )
  })

  it('is held back only as long as it could still become one', () => {
    const { pieces, stopped } = runThrough(createTextStream(decodeBytes, ['END']), bytesOf('xENxEN'))
    assert.deepEqual(pieces, ['x', '', '', 'ENx', '', '', 'EN'])
    assert.equal(stopped, false)
  })

  it('is not part of the text, and nothing after it is', () => {
    const stream = createTextStream((ids) => ids.map((id) => ['one ', 'tw', 'o three'][id]).join(''), ['two'])
    assert.deepEqual(
      [stream.push(0), stream.push(1), stream.push(2)],
      [
        { text: 'one ', stopped: false },
        { text: '', stopped: false },
        { text: '', stopped: true },
      ],
    )
    assert.equal(stream.decoded, 'one two three'.length)
  })
})
