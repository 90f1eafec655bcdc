import assert from 'node:assert/strict'
import { mkdtemp, readFile, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { after, before, describe, test } from 'node:test'
import fc from 'fast-check'
import { type ChatMessage, loadChatTemplate } from '../../../coordinator/tokenizer/chat-template.ts'
import { createTokenizer, loadTokenizer, type Tokenizer } from '../../../coordinator/tokenizer/tokenizer.ts'
import { HeadraceError } from '../../../shared/errors.ts'
import { readEosTokens } from '../../../shared/model-folder.ts'
import { convertFolder } from '../../support/gguf/convert.ts'
import type { MetadataValue } from '../../support/gguf/fields.ts'
import { ggufBytes } from '../../support/gguf/write.ts'
import { bundledModel, fixture } from '../../support/paths.ts'

let folder: string
let bundled: string
before(async () => {
  folder = await mkdtemp(join(tmpdir(), 'headrace-gguf-'))
  bundled = await convertFolder(bundledModel, join(folder, 'bundled.gguf'), { type: 'F16' })
})
after(() => rm(folder, { recursive: true }))

type Case = { text: string; ids: number[]; decoded: string }
const cases: Case[] = JSON.parse(await readFile(fixture('prompts/tokenizer-cases.json'), 'utf8'))
const chats: { messages: ChatMessage[]; text: string }[] = JSON.parse(
  await readFile(fixture('prompts/chat-cases.json'), 'utf8'),
)

describe('the tokenizer in the bundled model as a GGUF file', () => {
  test('agrees with Hugging Face on all cases', async () => {
    const tokenizer = await loadTokenizer(bundled)
    for (const { text, ids, decoded } of cases) {
      assert.deepEqual(tokenizer.encode(text), ids)
      assert.equal(tokenizer.decode(ids), decoded)
    }
  })

  test('agrees with tokenizer.json on any text', async () => {
    const [tokenizer, own] = [await loadTokenizer(bundled), await loadTokenizer(bundledModel)]
    assert.equal(tokenizer.vocabularySize, own.vocabularySize)
    fc.assert(
      fc.property(fc.string({ unit: 'grapheme', maxLength: 80 }), (text) => {
        assert.deepEqual(tokenizer.encode(text), own.encode(text))
      }),
      { seed: 7, numRuns: 300 },
    )
    for (let id = 0; id < own.vocabularySize; id++) {
      assert.deepEqual(tokenizer.bytesOf(id), own.bytesOf(id))
      assert.equal(tokenizer.isSpecial(id), own.isSpecial(id))
    }
  })

  test('comes with the chat template and the ends of an answer', async () => {
    const template = await loadChatTemplate(bundled)
    for (const { messages, text } of chats) assert.equal(template.render(messages), text)
    assert.deepEqual((await readEosTokens(bundled)).slice(0, 1), await readEosTokens(bundledModel))
  })
})

const KIND = { normal: 1, unknown: 2, control: 3, userDefined: 4, unused: 5, byte: 6 }
type Piece = readonly [text: string, score: number, kind: number]

const CONFIG: readonly [string, MetadataValue][] = [['general.architecture', { text: 'llama' }]]

async function tokenizerOf(
  model: string,
  pieces: readonly Piece[],
  more: readonly (readonly [string, MetadataValue])[] = [],
): Promise<Tokenizer> {
  const path = join(folder, `${model}.gguf`)
  const vocabulary: [string, MetadataValue][] = [
    ['tokenizer.ggml.model', { text: model }],
    ['tokenizer.ggml.tokens', { texts: pieces.map(([text]) => text) }],
    ['tokenizer.ggml.scores', { f32s: pieces.map(([, score]) => score) }],
    ['tokenizer.ggml.token_type', { i32s: pieces.map(([, , kind]) => kind) }],
  ]
  await writeFile(path, ggufBytes([...CONFIG, ...vocabulary, ...more], []))
  return loadTokenizer(path)
}

const BYTES: Piece[] = Array.from({ length: 256 }, (_, byte) => [
  `<0x${byte.toString(16).toUpperCase().padStart(2, '0')}>`,
  0,
  KIND.byte,
])
const byteId = (byte: number) => 3 + byte

/** What SentencePiece would learn: the earlier a piece, the higher its score. */
const PIECES: Piece[] = [
  ['<unk>', 0, KIND.unknown],
  ['<s>', 0, KIND.control],
  ['</s>', 0, KIND.control],
  ...BYTES,
  ...['he', 'll', '▁w', 'hell', 'or', '▁wor', 'hello', 'ld', '▁world', '▁hello', '▁▁'].map(
    (text, i): Piece => [text, -i, KIND.normal],
  ),
  ...[...'helowrd▁'].map((text, i): Piece => [text, -100 - i, KIND.normal]),
  ['<|end|>', -1000, KIND.control],
  ['  ', -1000, KIND.userDefined],
]
const pieceId = (text: string) => PIECES.findIndex(([piece]) => piece === text)

/** The definition (SentencePiece, `bpe_model.cc`): join the neighbours that make the best piece, the leftmost of equals. */
function slowPieces(text: string): number[] {
  const scores = new Map(PIECES.filter(([, , kind]) => kind === KIND.normal).map(([piece, score]) => [piece, score]))
  const parts = [...text.replaceAll(' ', '▁')]
  for (;;) {
    let best = -1
    for (let i = 0; i + 1 < parts.length; i++) {
      const score = scores.get(parts[i]! + parts[i + 1]!)
      if (score !== undefined && (best < 0 || score > scores.get(parts[best]! + parts[best + 1]!)!)) best = i
    }
    if (best < 0) break
    parts.splice(best, 2, parts[best]! + parts[best + 1]!)
  }
  return parts.flatMap((part) => (scores.has(part) ? [pieceId(part)] : [...new TextEncoder().encode(part)].map(byteId)))
}

describe("SentencePiece's BPE in a GGUF file", () => {
  test('joins by score, falls back to bytes and puts a space before', async () => {
    const tokenizer = await tokenizerOf('llama', PIECES)
    assert.deepEqual(tokenizer.encode('hello world'), [pieceId('▁hello'), pieceId('▁world')])
    assert.deepEqual(tokenizer.encode('é'), [pieceId('▁'), byteId(0xc3), byteId(0xa9)])
    assert.deepEqual(tokenizer.encode('hello<|end|>he'), [
      ...[pieceId('▁hello'), pieceId('<|end|>'), pieceId('▁'), pieceId('he')],
    ])
    assert.equal(tokenizer.decode(tokenizer.encode('hello wörld')), 'hello wörld')
    assert.deepEqual(tokenizer.bytesOf(byteId(0xc3)), Uint8Array.of(0xc3))
    assert.deepEqual([...tokenizer.bytesOf(pieceId('▁w'))], [...new TextEncoder().encode(' w')])
  })

  test('is that of its definition, whatever the text', async () => {
    const tokenizer = await tokenizerOf('llama', PIECES)
    fc.assert(
      fc.property(fc.string({ unit: fc.constantFrom(...'helowrd é'), maxLength: 30 }), (text) => {
        fc.pre(!text.includes('  ') && text !== '')
        assert.deepEqual(tokenizer.encode(text), slowPieces(` ${text}`))
        assert.equal(tokenizer.decode(tokenizer.encode(text)), text)
      }),
      { seed: 11, numRuns: 500 },
    )
  })

  test('puts no space before where the file says so', async () => {
    const tokenizer = await tokenizerOf('llama', PIECES, [['tokenizer.ggml.add_space_prefix', { flag: false }]])
    assert.deepEqual(tokenizer.encode('hello world'), [pieceId('hello'), pieceId('▁world')])
    assert.deepEqual(tokenizer.encode('he  he'), [pieceId('he'), pieceId('  '), pieceId('he')])
    assert.equal(tokenizer.decode(tokenizer.encode(' he')), ' he')
  })

  test('begins and ends texts as the file says', async () => {
    const { GgufSource } = await import('../../../shared/gguf/source.ts')
    await tokenizerOf('llama', PIECES, [['tokenizer.ggml.add_eos_token', { flag: true }]])
    const source = new GgufSource(join(folder, 'llama.gguf'))
    const config = await source.tokenizerConfig()
    assert.deepEqual(config, {
      add_bos_token: true,
      add_eos_token: true,
      bos_token: '<s>',
      eos_token: '</s>',
      unk_token: '<unk>',
    })
    const { Tokenizer: HfTokenizer } = await import('@huggingface/tokenizers')
    assert.deepEqual(new HfTokenizer(await source.tokenizer(), config).encode('hello').ids, [1, pieceId('▁hello'), 2])
  })
})

describe('a unigram vocabulary in a GGUF file', () => {
  const pieces: Piece[] = [
    ['<pad>', 0, KIND.control],
    ['</s>', 0, KIND.control],
    ['<unk>', 0, KIND.unknown],
    ['▁', -2, KIND.normal],
    ['a', -3, KIND.normal],
    ['b', -3.5, KIND.normal],
    ['ab', -4, KIND.normal],
    ['▁ab', -7, KIND.normal],
    ['ba', -4.5, KIND.normal],
    ['<extra>', 0, KIND.userDefined],
  ]

  test('is cut where the sum of the scores is largest', async () => {
    const tokenizer = await tokenizerOf('t5', pieces, [['tokenizer.ggml.add_space_prefix', { flag: true }]])
    assert.deepEqual(tokenizer.encode('ab'), [3, 6]) // -2 - 4 beats -7 and -2 - 3 - 3.5
    assert.deepEqual(tokenizer.encode('aba<extra>b'), [3, 6, 4, 9, 3, 5])
    assert.deepEqual(tokenizer.encode('bzb'), [3, 5, 2, 5])
    assert.equal(tokenizer.decode([3, 6, 3, 5]), 'ab b')
  })
})

describe('a byte-level vocabulary in a GGUF file', () => {
  const printable = (byte: number) => (byte > 0x20 && byte < 0x7f) || (byte > 0xa0 && byte !== 0xad)
  let next = 0x100
  const bytes = Array.from({ length: 256 }, (_, byte) => String.fromCodePoint(printable(byte) ? byte : next++))
  const pieces: Piece[] = [...bytes, 'Ġ1', '12', '123', "'S", 'aB', 'Ġa'].map((text) => [text, 0, KIND.normal])
  const id = (text: string) => pieces.findIndex(([piece]) => piece === text)
  const merges: [string, MetadataValue] = [
    'tokenizer.ggml.merges',
    { texts: ['Ġ 1', '1 2', '12 3', "' S", 'a B', 'Ġ a'] },
  ]
  const named = (name: string): readonly (readonly [string, MetadataValue])[] => [
    merges,
    ['tokenizer.ggml.pre', { text: name }],
  ]

  /** What each kind does with digits, contractions in capitals, and capitals within a word. */
  const kinds: readonly [string, string, string[]][] = [
    ['gpt-2', ' 123', ['Ġ1', '2', '3']],
    ['llama-bpe', ' 123', ['Ġ', '123']],
    ['smollm', ' 123', ['Ġ', '1', '2', '3']],
    ['qwen2', '123', ['1', '2', '3']],
    ['gpt-2', "x'S", ['x', "'", 'S']],
    ['smaug-bpe', "x'S", ['x', "'S"]],
    ['llama-bpe', 'aB', ['aB']],
    ['gpt-4o', 'aB', ['a', 'B']],
    ['tekken', '123', ['1', '2', '3']],
    ['default', ' 123', ['Ġ', '123']],
  ]
  for (const [name, text, expected] of kinds)
    test(`of the kind ${name} cuts ${JSON.stringify(text)} into ${expected.join(' | ')}`, async () => {
      const tokenizer = await tokenizerOf('gpt2', pieces, named(name))
      assert.deepEqual(tokenizer.encode(text), expected.map(id))
      assert.equal(tokenizer.decode(tokenizer.encode(text)), text)
    })

  const code = (expected: string) => (thrown: unknown) => thrown instanceof HeadraceError && thrown.code === expected

  test('of a kind that is not known is refused by name', async () => {
    await assert.rejects(tokenizerOf('gpt2', pieces, named('no-such')), {
      code: 'model_unsupported',
      message: /no-such/,
    })
    await assert.rejects(tokenizerOf('bert', pieces), code('model_unsupported'))
  })

  test('that contradicts itself is refused', async () => {
    await assert.rejects(tokenizerOf('gpt2', pieces), code('model_bad_tokenizer'))
    await assert.rejects(tokenizerOf('gpt2', [...pieces, ...pieces.slice(0, 1)], [merges]), code('model_bad_tokenizer'))
    const odd: [string, MetadataValue] = ['tokenizer.ggml.merges', { texts: ['ab'] }]
    await assert.rejects(tokenizerOf('gpt2', pieces, [odd]), code('model_bad_tokenizer'))
  })

  test('may have ids without a text', () => {
    const vocab = { a: 0, b: 5 }
    const tokenizer = createTokenizer(
      {
        model: { type: 'BPE', vocab, merges: [] },
        added_tokens: [],
        normalizer: null,
        pre_tokenizer: null,
        post_processor: null,
        decoder: null,
      },
      {},
    )
    assert.equal(tokenizer.vocabularySize, 6)
    assert.deepEqual(tokenizer.encode('ab'), [0, 5])
  })
})
