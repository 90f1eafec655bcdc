import assert from 'node:assert/strict'
import { readFile, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { loadChatTemplate } from '../../../coordinator/tokenizer/chat-template.ts'
import { loadTokenizer } from '../../../coordinator/tokenizer/tokenizer.ts'
import type { ErrorCode } from '../../../shared/errors.ts'
import { readEosTokens, readModelShape } from '../../../shared/model-folder.ts'
import { fixture, fixtureNames } from '../../support/paths.ts'
import { temporaryFolder } from '../../support/temporary.ts'
import { damaged, STRANGERS } from '../damage.ts'
import type { Dice } from '../dice.ts'
import { hostileJson } from '../json.ts'
import { joined, outcomeOf, parted, type Target } from '../target.ts'

/** The text files of a model's folder, read from one as the coordinator and the workers do. */

const CONFIG_CODES: ReadonlySet<ErrorCode> = new Set(['model_bad_config', 'model_unsupported'] as const)
const TOKENIZER_CODES: ReadonlySet<ErrorCode> = new Set(['model_bad_tokenizer'] as const)
const TEMPLATE_CODES: ReadonlySet<ErrorCode> = new Set(['model_bad_tokenizer', 'invalid_request'] as const)

/** Values that an option of some architecture has. */
const OPTIONS = [
  ...['llama', 'gemma3_text', 'qwen3_moe', 'mixtral', 'phi3', 'granite', 'olmo2', 'smollm3', 'constructor'],
  ...['yarn', 'llama3', 'longrope', 'dynamic', 'linear', 'default', 'mrope', 'gelu', 'relu2', 'sliding_attention'],
  { rope_type: 'yarn', factor: 4, original_max_position_embeddings: 32 },
  { type: 'longrope', short_factor: [1], long_factor: [1], factor: 8 },
  { full_attention: { rope_theta: 10_000 }, sliding_attention: { rope_type: 'default', rope_theta: 1 } },
  ['sliding_attention', 'full_attention'],
  [0, 1, 1, 0],
]

export const config: Target = {
  name: 'config',
  weight: 5,
  open: async () => {
    const folder = await temporaryFolder()
    const seeds: unknown[] = []
    for (const name of fixtureNames)
      seeds.push(JSON.parse(await readFile(join(fixture(name), 'config.json'), 'utf8')) as unknown)
    return {
      input: (dice) => hostileJson(dice, dice.oneOf(seeds), [...STRANGERS, ...OPTIONS]),
      async take(input) {
        await writeFile(join(folder.path, 'config.json'), input)
        return outcomeOf(CONFIG_CODES, async () => {
          await readEosTokens(folder.path)
          const shape = await readModelShape(folder.path)
          assert.equal(shape.layerShapes.length, shape.layers)
        })
      },
      close: () => folder[Symbol.asyncDispose](),
    }
  },
}

const letters = [...'abcdefgh .!▁Ġé']
const added = (content: string, id: number) => ({
  id,
  content,
  special: true,
  single_word: false,
  lstrip: false,
  rstrip: true,
  normalized: false,
})

/** One of each kind of model that the package knows, with most kinds of parts around it. */
const TOKENIZERS: readonly object[] = [
  {
    added_tokens: [added('<s>', 20), added('</s>', 21)],
    normalizer: { type: 'Sequence', normalizers: [{ type: 'NFC' }, { type: 'Lowercase' }] },
    pre_tokenizer: {
      type: 'Sequence',
      pretokenizers: [
        { type: 'Split', pattern: { Regex: '\\p{N}{1,3}|\\s+|\\w+' }, behavior: 'Isolated', invert: false },
        { type: 'ByteLevel', add_prefix_space: false, trim_offsets: true, use_regex: false },
      ],
    },
    post_processor: {
      type: 'TemplateProcessing',
      single: [{ SpecialToken: { id: '<s>', type_id: 0 } }, { Sequence: { id: 'A', type_id: 0 } }],
      pair: [],
      special_tokens: { '<s>': { id: '<s>', ids: [20], tokens: ['<s>'] } },
    },
    decoder: { type: 'ByteLevel', add_prefix_space: true, trim_offsets: true, use_regex: true },
    model: {
      type: 'BPE',
      dropout: null,
      unk_token: null,
      continuing_subword_prefix: null,
      end_of_word_suffix: null,
      fuse_unk: false,
      byte_fallback: false,
      ignore_merges: true,
      vocab: Object.fromEntries([...letters, 'ab', 'abc'].map((token, id) => [token, id])),
      merges: [['a', 'b'], 'ab c'],
    },
  },
  {
    added_tokens: [added('<unk>', 0)],
    normalizer: { type: 'Replace', pattern: { String: ' ' }, content: '▁' },
    pre_tokenizer: { type: 'Metaspace', replacement: '▁', prepend_scheme: 'first', split: true },
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
      type: 'Unigram',
      unk_id: 0,
      byte_fallback: false,
      vocab: [['<unk>', 0], ...letters.map((token, i) => [token, -1 - i]), ['ab', -0.5]],
    },
  },
  {
    added_tokens: [added('[UNK]', 0)],
    normalizer: { type: 'BertNormalizer', clean_text: true, handle_chinese_chars: true, strip_accents: null },
    pre_tokenizer: { type: 'BertPreTokenizer' },
    decoder: { type: 'WordPiece', prefix: '##', cleanup: true },
    model: {
      type: 'WordPiece',
      unk_token: '[UNK]',
      continuing_subword_prefix: '##',
      max_input_chars_per_word: 100,
      vocab: Object.fromEntries(['[UNK]', ...letters, '##a', '##b'].map((token, id) => [token, id])),
    },
  },
]
const TOKENIZER_CONFIG = {
  bos_token: '<s>',
  eos_token: { content: '</s>' },
  add_bos_token: true,
  chat_template: '{{ 1 }}',
}

const PARTS = [
  ...['BPE', 'Unigram', 'WordPiece', 'WordLevel', 'Legacy', 'ByteLevel', 'Precompiled', 'Prepend', 'NFKD', 'CTC'],
  ...['Digits', 'Punctuation', 'Whitespace', 'WhitespaceSplit', 'RobertaProcessing', 'BPEDecoder', 'FixedLength'],
  { Regex: '(' },
  { Regex: '' },
  { String: '' },
]

export const tokenizer: Target = {
  name: 'tokenizer',
  weight: 4,
  open: async () => {
    const folder = await temporaryFolder()
    return {
      input: (dice) =>
        joined([
          hostileJson(dice, dice.oneOf(TOKENIZERS), [...STRANGERS, ...PARTS]),
          dice.chance(0.9) ? Buffer.from(JSON.stringify(TOKENIZER_CONFIG)) : hostileJson(dice, TOKENIZER_CONFIG),
        ]),
      async take(input) {
        const [json, settings] = parted(input)
        await writeFile(join(folder.path, 'tokenizer.json'), json ?? '')
        await writeFile(join(folder.path, 'tokenizer_config.json'), settings ?? '{}')
        return outcomeOf(TOKENIZER_CODES, () => useTokenizer(folder.path))
      },
      close: () => folder[Symbol.asyncDispose](),
    }
  },
}

/** As requests use it. */
async function useTokenizer(folder: string): Promise<void> {
  const loaded = await loadTokenizer(folder)
  for (const text of ['abc abc!', '', 'é 漢 <s> 12345', '\ud83d', 'abcdefgh '.repeat(20)]) {
    loaded.fewestTokens(text)
    const ids = loaded.encode(text)
    assert.ok(ids.every((id) => Number.isSafeInteger(id) && id >= 0 && id < loaded.vocabularySize))
    assert.equal(typeof loaded.decode(ids, { skipSpecial: true }), 'string')
    for (const id of ids) assert.ok(loaded.bytesOf(id) instanceof Uint8Array)
  }
}

const TEMPLATES = [
  "{{ bos_token }}{% for message in messages %}{{ '<|' + message['role'] + '|>\\n' + message['content'] | trim }}{% endfor %}" +
    '{% if add_generation_prompt %}<|assistant|>{% endif %}',
  "{%- if messages[0].role == 'system' -%}{%- set system = messages[0].content -%}{%- set messages = messages[1:] -%}{%- endif -%}" +
    "{%- for m in messages -%}{%- if (m.role == 'user') != (loop.index0 % 2 == 0) -%}{{ raise_exception('order') }}{%- endif -%}" +
    "[{{ loop.index }}] {{ m.content.strip() | upper }}{{ '\\n' if not loop.last else '' }}{%- endfor -%}{{ strftime_now('%Y') }}",
  '{% macro say(x, n=2) %}{% for i in range(n) %}{{ x ~ i }}{% endfor %}{% endmacro %}{% set ns = namespace(total=0) %}' +
    "{% for m in messages | selectattr('role', 'equalto', 'user') %}{% set ns.total = ns.total + 1 %}{{ say(m.content) }}{% endfor %}" +
    '{{ ns.total | string }}{{ messages | tojson(indent=2) }}{{ tools is none }}{{ messages | length }}',
]

/** Pieces of templates, and of loops and values that grow. */
const TEMPLATE_WORDS = [
  ...[
    '{{',
    '}}',
    '{%',
    '%}',
    '{#',
    '#}',
    '-%}',
    ' not ',
    ' is ',
    ' in ',
    '|',
    '(',
    ')',
    '[',
    ']',
    '::',
    ':',
    '~',
    '**',
  ],
  ...[
    '{% for a in messages %}',
    '{% endfor %}',
    '{% if 1 %}',
    '{% else %}',
    '{% endif %}',
    '{% set x = ',
    '{% break %}',
  ],
  ...[
    'range(9)',
    'range(999999999)',
    'range(0, 9, 0)',
    'messages',
    "'x'",
    '0',
    '-1',
    '1e99',
    '9999999999',
    'none',
    '{}',
  ],
  ...[
    '__proto__',
    'constructor',
    '.constructor',
    "['__proto__']",
    '.split("")',
    '.replace("a","b")',
    '|join',
    '|items',
  ],
  ...[
    '|map(attribute="x")',
    '|sort',
    '|tojson',
    '|indent(99999999)',
    '|batch',
    'raise_exception(1)',
    'loop.index',
    '{{ x }}',
  ],
  '('.repeat(20_000),
  '{% for a in range(1000) %}'.repeat(4),
  '{% if 1 %}'.repeat(10_000),
  `{{ ${'-'.repeat(20_000)}1 }}`,
  `{{ ${'['.repeat(20_000)} }}`,
]
const TEMPLATE_BYTES = TEMPLATE_WORDS.map((word) => new TextEncoder().encode(word))

/** A template with some of its words changed: what parses goes further than what does not. */
function otherWords(dice: Dice, text: string): Uint8Array {
  const words = text.match(/\w+|\s+|[^\w\s]+/g) ?? []
  for (let left = 1 + dice.few(4); left > 0; left--) {
    const kind = dice.below(4)
    const word = kind < 2 ? dice.oneOf(TEMPLATE_WORDS) : dice.oneOf(words)
    words.splice(dice.below(words.length), kind === 1 ? 0 : 1, word)
  }
  return Buffer.from(words.join(''))
}

const ASKED = [
  [{ role: 'user', content: 'Hello' }],
  [
    { role: 'system', content: 'Be brief.' },
    { role: 'user', content: ' a\n' },
    { role: 'assistant', content: '' },
  ],
]

export const template: Target = {
  name: 'template',
  weight: 4,
  open: async () => {
    const folder = await temporaryFolder()
    return {
      input: (dice: Dice) => {
        const text = dice.oneOf(TEMPLATES)
        if (dice.chance(0.05)) return Buffer.from(text)
        return dice.chance(0.3) ? damaged(dice, Buffer.from(text), TEMPLATE_BYTES) : otherWords(dice, text)
      },
      async take(input) {
        await writeFile(join(folder.path, 'chat_template.jinja'), input)
        return outcomeOf(TEMPLATE_CODES, async () => {
          const loaded = await loadChatTemplate(folder.path)
          for (const messages of ASKED) assert.equal(typeof loaded.render(messages), 'string')
        })
      },
      close: () => folder[Symbol.asyncDispose](),
    }
  },
}
