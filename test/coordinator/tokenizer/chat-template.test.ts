import assert from 'node:assert/strict'
import { readFile } from 'node:fs/promises'
import { describe, it } from 'node:test'
import { type ChatMessage, createChatTemplate, loadChatTemplate } from '../../../coordinator/tokenizer/chat-template.ts'
import { loadTokenizer } from '../../../coordinator/tokenizer/tokenizer.ts'
import { HeadraceError } from '../../../shared/errors.ts'
import { bundledModel, fixture } from '../../support/paths.ts'

const template = await loadChatTemplate(bundledModel)
const cases = JSON.parse(await readFile(fixture('prompts/chat-cases.json'), 'utf8')) as {
  messages: ChatMessage[]
  text: string
}[]
const user: ChatMessage[] = [{ role: 'user', content: 'Q' }]

describe('the chat template', () => {
  for (const [at, { messages, text }] of cases.entries())
    it(`agrees with Hugging Face on case ${at}`, () => {
      assert.equal(template.render(messages), text)
    })

  it('makes prompts of the length that Hugging Face counted', async () => {
    const tokenizer = await loadTokenizer(bundledModel)
    const lines = (await readFile(fixture('prompts/prompts.jsonl'), 'utf8')).trim().split('\n')
    assert.ok(lines.length >= 8)
    for (const line of lines) {
      const { messages, prompt_tokens } = JSON.parse(line) as { messages: ChatMessage[]; prompt_tokens: number }
      assert.equal(tokenizer.encode(template.render(messages)).length, prompt_tokens)
    }
  })
})

/** Sources and what Jinja 3.1 makes of them with `trim_blocks=True, lstrip_blocks=True`, as transformers sets them. */
const WHITESPACE: readonly [source: string, text: string][] = [
  ['{% if true %}\nA\n{% endif %}\nB\n', 'A\nB'],
  ['  {% if true %}\n  A\n  {% endif %}\n', '  A\n'],
  ['x  {% if true %}y{% endif %}', 'x  y'],
  ['  {{ "a" }}\n  {{ "b" }}\n', '  a\n  b'],
  ['{# note #}\nA', 'A'],
  ['\t{#- note -#}\n A', 'A'],
  ['A\n{%- if true -%}\n  B\n{%- endif %}\n\nC', 'AB\nC'],
  ['{% for m in messages %}\n{{ m.role }}\n\n{% endfor %}', 'user\n\n'],
  ['A\r\n{% if true %}\r\nB{% endif %}\r\n', 'A\nB'],
]

describe('whitespace in a template', () => {
  for (const [source, text] of WHITESPACE)
    it(`is trimmed as transformers trims it: ${JSON.stringify(source)}`, () => {
      assert.equal(createChatTemplate(source, {}).render(user), text)
    })
})

describe('a template', () => {
  it('knows the special tokens, however they are written', () => {
    const config = { bos_token: '<s>', eos_token: { content: '</s>', special: true }, pad_token: null }
    const source = '{{ bos_token }}{{ messages[0].content }}{{ eos_token }}{% if add_generation_prompt %}>{% endif %}'
    assert.equal(createChatTemplate(source, config).render(user), '<s>Q</s>>')
  })

  it('refuses messages as invalid_request, with its own words', () => {
    const strict = createChatTemplate("{{ raise_exception('roles must alternate') }}", {})
    assert.throws(
      () => strict.render(user),
      (thrown) =>
        thrown instanceof HeadraceError &&
        thrown.code === 'invalid_request' &&
        thrown.details['param'] === 'messages' &&
        /roles must alternate/.test(thrown.message),
    )
  })

  it('that is missing is an error of the chat request only', () => {
    const none = createChatTemplate(undefined, {})
    assert.throws(() => none.render(user), /no chat template; use \/v1\/completions/)
  })

  it('that cannot be parsed is model_bad_tokenizer', () => {
    assert.throws(
      () => createChatTemplate('{% if %}', {}),
      (thrown) => thrown instanceof HeadraceError && thrown.code === 'model_bad_tokenizer',
    )
  })
})
