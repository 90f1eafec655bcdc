import assert from 'node:assert/strict'
import { readFile } from 'node:fs/promises'
import { describe, it } from 'node:test'
import { createTokenizer, loadTokenizer } from '../../../coordinator/tokenizer/tokenizer.ts'
import { HeadraceError } from '../../../shared/errors.ts'
import { bundledModel, fixture } from '../../support/paths.ts'

const tokenizer = await loadTokenizer(bundledModel)
const cases = JSON.parse(await readFile(fixture('prompts/tokenizer-cases.json'), 'utf8')) as {
  text: string
  ids: number[]
  decoded: string
}[]

const hasCode = (code: string) => (thrown: unknown) => thrown instanceof HeadraceError && thrown.code === code

describe('the tokenizer', () => {
  for (const [at, { text, ids, decoded }] of cases.entries())
    it(`agrees with Hugging Face on case ${at}: ${JSON.stringify(text.slice(0, 30))}`, () => {
      assert.deepEqual(tokenizer.encode(text), ids)
      assert.equal(tokenizer.decode(ids), decoded)
    })

  it('knows the size of its vocabulary and its special tokens', () => {
    assert.equal(tokenizer.vocabularySize, 4094)
    assert.equal(tokenizer.isSpecial(4), true)
    assert.equal(tokenizer.isSpecial(70), false)
  })

  it('drops special tokens from text when asked to', () => {
    const ids = tokenizer.encode('<|eot_id|>kept<|begin_of_text|>')
    assert.equal(tokenizer.decode(ids, { skipSpecial: true }), 'kept')
    assert.equal(tokenizer.decode(ids), '<|eot_id|>kept<|begin_of_text|>')
  })

  it('decodes nothing, and ids that have no text, to an empty text', () => {
    assert.equal(tokenizer.decode([]), '')
    assert.equal(tokenizer.decode([5000]), '')
  })

  it('does not clean up what the model wrote', () => {
    const text = " do n't . Really ?"
    assert.equal(tokenizer.decode(tokenizer.encode(text)), text)
  })

  it('gives the exact bytes of each token, whole character or not', () => {
    for (const { text, ids } of cases) {
      const bytes = ids.flatMap((id) => [...tokenizer.bytesOf(id)])
      assert.equal(Buffer.from(bytes).toString(), text)
    }
  })

  it('never expects more tokens of a text than it has', () => {
    for (const { text, ids } of cases) assert.ok(tokenizer.fewestTokens(text) <= ids.length)
    assert.ok(tokenizer.fewestTokens('a'.repeat(10_000)) > 100)
  })
})

describe('a tokenizer of the SentencePiece kind', () => {
  const sentencePiece = createTokenizer(
    {
      added_tokens: [{ id: 0, content: '<unk>', special: true }],
      normalizer: null,
      pre_tokenizer: { type: 'Metaspace', replacement: '▁', prepend_scheme: 'first', split: false },
      post_processor: null,
      decoder: {
        type: 'Sequence',
        decoders: [
          { type: 'Replace', pattern: { String: '▁' }, content: ' ' },
          { type: 'ByteFallback' },
          { type: 'Fuse' },
          { type: 'Strip', content: ' ', start: 1, stop: 0 },
        ],
      },
      model: {
        type: 'BPE',
        unk_token: '<unk>',
        byte_fallback: true,
        vocab: { '<unk>': 0, '<0xE2>': 1, '<0x82>': 2, '<0xAC>': 3, '▁': 4, a: 5, '▁a': 6 },
        merges: [['▁', 'a']],
      },
    },
    {},
  )

  it('turns its byte tokens into bytes and its blanks into spaces', () => {
    assert.deepEqual(
      [1, 2, 3, 6].map((id) => [...sentencePiece.bytesOf(id)]),
      [[0xe2], [0x82], [0xac], [0x20, 0x61]],
    )
    assert.equal(sentencePiece.decode([6, 6, 1, 2, 3]), 'a a€')
  })
})

describe('a tokenizer that cannot be used', () => {
  it('is model_bad_tokenizer when it is malformed', () => {
    const good = { added_tokens: [], normalizer: null, pre_tokenizer: null, post_processor: null, decoder: null }
    for (const json of [{}, { ...good, model: null }, { ...good, model: { type: 'Riddle' } }])
      assert.throws(() => createTokenizer(json, {}), hasCode('model_bad_tokenizer'))
  })

  it('is model_incomplete when its file is missing', async () => {
    await assert.rejects(loadTokenizer(fixture('prompts')), hasCode('model_incomplete'))
  })
})
