import { HeadraceError } from '../errors.ts'

/** How a vocabulary of byte-level BPE is used, beyond its tokens and merges: what `tokenizer.ggml.pre` names. */
export interface PreTokenizer {
  /** Regular expressions; each splits what the ones before left, and what none matches is a piece too. */
  readonly splits: readonly string[]
  /** A piece that is a token stays one, whatever the merges would make of it. */
  readonly ignoreMerges?: boolean
  readonly normalizer?: 'NFC'
  /** Whether a text begins with the token of the beginning, where the file does not say. */
  readonly addBos?: boolean
}

const CONTRACTIONS = "'s|'t|'re|'ve|'m|'ll|'d"
const LINES_AND_SPACES = '\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+'

const GPT2 = `${CONTRACTIONS}| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+`

/** OpenAI's cl100k, with the digits that one piece may hold. */
const cl100k = (digits: string, letter = '\\p{L}') =>
  `(?i:${CONTRACTIONS})|[^\\r\\n\\p{L}\\p{N}]?${letter === '\\p{L}' ? letter : `[${letter}]`}+|${digits}` +
  `| ?[^\\s${letter}\\p{N}]+[\\r\\n]*|${LINES_AND_SPACES}`

/** OpenAI's o200k: words end where capitals begin again. */
const o200k = (digits: string, ending: string) => {
  const [upper, lower] = ['[\\p{Lu}\\p{Lt}\\p{Lm}\\p{Lo}\\p{M}]', '[\\p{Ll}\\p{Lm}\\p{Lo}\\p{M}]']
  const before = '[^\\r\\n\\p{L}\\p{N}]?'
  return (
    `${before}${upper}*${lower}+${ending}|${before}${upper}+${lower}*${ending}|${digits}` +
    `| ?[^\\s\\p{L}\\p{N}]+[\\r\\n/]*|${LINES_AND_SPACES}`
  )
}

const UP_TO_THREE = '\\p{N}{1,3}'
const ONE = '\\p{N}'

const LLAMA3: PreTokenizer = { splits: [cl100k(UP_TO_THREE)], ignoreMerges: true, addBos: true }
const CL100K: PreTokenizer = { splits: [cl100k(UP_TO_THREE)] }
const QWEN2: PreTokenizer = { splits: [cl100k(ONE)] }
const O200K: PreTokenizer = { splits: [o200k(UP_TO_THREE, `(?i:${CONTRACTIONS})?`)] }
const TEKKEN: PreTokenizer = { splits: [o200k(ONE, '')], ignoreMerges: true, addBos: true }
const PLAIN: PreTokenizer = { splits: [GPT2] }
const DIGITS: PreTokenizer = { splits: [ONE, GPT2] }
const PUNCTUATION = '[\\p{P}\\$\\+<=>\\^~\\|'

/**
 * The names that llama.cpp's converter gives (conversion/base.py) and what its vocabulary does for them
 * (src/llama-vocab.cpp); the normalizers are those of the tokenizers that bear the names.
 */
const KINDS: Readonly<Record<string, PreTokenizer>> = {
  default: { splits: [`${PUNCTUATION}]+`, GPT2, '\\p{N}+', '[0-9][0-9][0-9]'] },
  falcon: { splits: [`${PUNCTUATION}\`]+`, GPT2, '[0-9][0-9][0-9]'] },
  ...each(LLAMA3, 'llama-bpe', 'llama3', 'llama-v3', 'falcon3', 'falcon-h1', 'pixtral', 'midm-2.0', 'lfm2'),
  ...each(CL100K, 'smaug-bpe', 'dbrx', 'glm4', 'chatglm-bpe'),
  ...each({ ...QWEN2, normalizer: 'NFC' }, 'qwen2', 'stablelm2'),
  ...each(QWEN2, 'deepseek-r1-qwen', 'megrez', 'hunyuan', 'kormo', 'f2llmv2', 'solar-open', 'grok-2'),
  qwen35: { splits: [cl100k(ONE, '\\p{L}\\p{M}')], normalizer: 'NFC' },
  ...each(O200K, 'gpt-4o', 'llama4', 'kanana2', 'minimax-m2', 'talkie'),
  tekken: TEKKEN,
  ...each(PLAIN, 'gpt-2', 'phi-2', 'mpt', 'olmo', 'jais', 'exaone4', 'gigachat', 'mellum', 'a.x-4.0', 'trillion'),
  'granite-docling': PLAIN,
  ...each(DIGITS, 'starcoder', 'refact', 'command-r', 'smollm', 'codeshell', 'exaone', 'minerva-7b', 'mellum2'),
}

function each(kind: PreTokenizer, ...names: string[]): Record<string, PreTokenizer> {
  return Object.fromEntries(names.map((name) => [name, kind]))
}

/** Old files name none and mean `default`. One that is not known would split text wrongly: `model_unsupported`. */
export function preTokenizer(name: string, file: string): PreTokenizer {
  if (!Object.hasOwn(KINDS, name))
    throw new HeadraceError('model_unsupported', `${file}: tokenizer.ggml.pre = ${name.slice(0, 100)} is not known`, {
      details: { option: 'tokenizer.ggml.pre', value: name.slice(0, 100) },
    })
  return KINDS[name]!
}
