import { HeadraceError } from '../errors.ts'
import type { Metadata } from './metadata.ts'
import { preTokenizer } from './pre-tokenizers.ts'
import { bad, namedToken, readVocabulary, TOKEN_KIND, type Token } from './vocabulary.ts'

/** SentencePiece writes a space so. */
const SPACE = '▁'

/**
 * The objects that the model's `tokenizer.json` and `tokenizer_config.json` would have been. `tokenizer.ggml.model` names
 * the kind: `gpt2` is byte-level BPE, `llama` SentencePiece's BPE, `t5` its unigram. What a file leaves out is what
 * llama.cpp takes then (src/llama-vocab.cpp). Errors: `model_bad_tokenizer`, `model_unsupported`.
 */
export function tokenizerOf(metadata: Metadata): object {
  const tokens = readVocabulary(metadata)
  const kind = metadata.text('tokenizer.ggml.model')
  switch (kind) {
    case 'gpt2':
      return byteLevel(metadata, tokens)
    case 'llama':
      return sentencePiece(metadata, tokens)
    case 't5':
      return unigram(metadata, tokens)
    default:
      throw new HeadraceError('model_unsupported', `${metadata.file}: tokenizer.ggml.model = ${kind?.slice(0, 100)}`)
  }
}

export function tokenizerConfigOf(metadata: Metadata): Record<string, unknown> {
  const tokens = readVocabulary(metadata)
  const { bos, eos } = added(metadata)
  const config: Record<string, unknown> = { add_bos_token: bos, add_eos_token: eos }
  for (const name of ['bos', 'eos', 'unk', 'pad', 'sep', 'mask']) {
    const id = namedId(metadata, name, tokens.length)
    if (id !== undefined) config[`${name}_token`] = tokens[id]!.text
  }
  return config
}

/** What llama.cpp takes for a token that the file does not name. */
const USUAL_IDS: Readonly<Record<string, Readonly<Record<string, number>>>> = {
  llama: { bos: 1, eos: 2, unk: 0 },
  t5: { eos: 1, unk: 2, pad: 0 },
}

function namedId(metadata: Metadata, name: string, count: number): number | undefined {
  const spelled = name === 'unk' ? 'unknown' : name === 'pad' ? 'padding' : name === 'sep' ? 'seperator' : name
  const usual = USUAL_IDS[metadata.text('tokenizer.ggml.model') ?? '']?.[name]
  const id = namedToken(metadata, spelled, count) ?? usual
  return id !== undefined && id < count ? id : undefined
}

/** Whether a text is put between the tokens of its beginning and end. */
function added(metadata: Metadata): { bos: boolean; eos: boolean } {
  const kind = metadata.text('tokenizer.ggml.model')
  const usualBos =
    kind === 'llama' || (kind === 'gpt2' && preTokenizer(preName(metadata), metadata.file).addBos === true)
  return {
    bos: metadata.flag('tokenizer.ggml.add_bos_token') ?? usualBos,
    eos: metadata.flag('tokenizer.ggml.add_eos_token') ?? kind === 't5',
  }
}

const preName = (metadata: Metadata) => metadata.text('tokenizer.ggml.pre') ?? 'default'

function byteLevel(metadata: Metadata, tokens: readonly Token[]): object {
  const pre = preTokenizer(preName(metadata), metadata.file)
  const merges = metadata.texts('tokenizer.ggml.merges')
  if (merges === undefined) throw bad(metadata, 'it has no merges')
  const byteLevel = { type: 'ByteLevel', add_prefix_space: false, trim_offsets: true, use_regex: false }
  const splits = pre.splits.map((Regex) => ({ type: 'Split', pattern: { Regex }, behavior: 'Isolated', invert: false }))
  return {
    ...common(metadata, tokens),
    normalizer: pre.normalizer === undefined ? null : { type: pre.normalizer },
    pre_tokenizer: { type: 'Sequence', pretokenizers: [...splits, byteLevel] },
    decoder: byteLevel,
    model: {
      type: 'BPE',
      ignore_merges: pre.ignoreMerges === true,
      vocab: vocabularyOf(tokens),
      merges: merges.map((merge) => {
        const between = merge.indexOf(' ', 1) // a part may be a space itself
        if (between < 0) throw bad(metadata, `the merge ${JSON.stringify(merge.slice(0, 100))} has no two parts`)
        return [merge.slice(0, between), merge.slice(between + 1)]
      }),
    },
  }
}

function sentencePiece(metadata: Metadata, tokens: readonly Token[]): object {
  const prefix = metadata.flag('tokenizer.ggml.add_space_prefix') ?? true
  const toSpace = { type: 'Replace', pattern: { String: SPACE }, content: ' ' }
  const fromSpace = { type: 'Replace', pattern: { String: ' ' }, content: SPACE }
  const decoders = [toSpace, { type: 'ByteFallback' }, { type: 'Fuse' }]
  const unknown = namedId(metadata, 'unk', tokens.length)
  return {
    ...common(metadata, tokens),
    normalizer: {
      type: 'Sequence',
      normalizers: [...(prefix ? [{ type: 'Prepend', prepend: SPACE }] : []), fromSpace],
    },
    pre_tokenizer: null,
    decoder: {
      type: 'Sequence',
      decoders: prefix ? [...decoders, { type: 'Strip', content: ' ', start: 1, stop: 0 }] : decoders,
    },
    model: {
      type: 'BPE',
      byte_fallback: true,
      fuse_unk: true,
      unk_token: unknown === undefined ? null : tokens[unknown]!.text,
      vocab: vocabularyOf(tokens),
      merges: mergesByScore(tokens),
    },
  }
}

/**
 * SentencePiece joins the two neighbours that make the piece of the highest score, which is the same as merges in the
 * order of the scores: every way to cut a piece into two pieces, the best piece first.
 */
function mergesByScore(tokens: readonly Token[]): [string, string][] {
  const pieces = tokens.filter(({ kind }) => kind === TOKEN_KIND.normal)
  const ids = new Map(pieces.map(({ text, id }) => [text, id]))
  const merges: [string, string][] = []
  for (const { text } of [...pieces].sort((a, b) => b.score - a.score || a.id - b.id)) {
    const cuts: [string, string][] = []
    for (let at = 1; at < text.length; at++) {
      const [left, right] = [text.slice(0, at), text.slice(at)]
      if (ids.has(left) && ids.has(right)) cuts.push([left, right])
    }
    merges.push(...cuts.sort((a, b) => ids.get(a[0])! - ids.get(b[0])! || ids.get(a[1])! - ids.get(b[1])!))
  }
  return merges
}

function unigram(metadata: Metadata, tokens: readonly Token[]): object {
  if (metadata.flag('tokenizer.ggml.treat_whitespace_as_suffix') === true)
    throw new HeadraceError('model_unsupported', `${metadata.file}: tokenizer.ggml.treat_whitespace_as_suffix`)
  const unknown = namedId(metadata, 'unk', tokens.length)
  if (unknown === undefined) throw bad(metadata, 'it has no unknown token')
  const prepend_scheme = metadata.flag('tokenizer.ggml.add_space_prefix') === true ? 'always' : 'never'
  const metaspace = { type: 'Metaspace', replacement: SPACE, prepend_scheme }
  const map = metadata.has('tokenizer.ggml.precompiled_charsmap') ? [{ type: 'Precompiled' }] : []
  const collapse = { type: 'Replace', pattern: { Regex: ' {2,}' }, content: ' ' }
  const trim = { type: 'Strip', strip_left: true, strip_right: true }
  const single = metadata.flag('tokenizer.ggml.remove_extra_whitespaces') === true ? [trim, collapse] : []
  return {
    ...common(metadata, tokens),
    normalizer: { type: 'Sequence', normalizers: [...map, ...single] },
    pre_tokenizer: metaspace,
    decoder: metaspace,
    model: { type: 'Unigram', unk_id: unknown, vocab: tokens.map(({ text, score }) => [text, score]) },
  }
}

/** Unused ids have no text, like the ones that pad the vocabulary of a `tokenizer.json`. */
const vocabularyOf = (tokens: readonly Token[]) =>
  Object.fromEntries(tokens.filter(({ kind }) => kind !== TOKEN_KIND.unused).map(({ text, id }) => [text, id]))

/** The tokens that are found in the text before anything else, and what is put around it. */
function common(metadata: Metadata, tokens: readonly Token[]): object {
  const { bos, eos } = added(metadata)
  const around = (name: string, wanted: boolean) => {
    const id = wanted ? namedId(metadata, name, tokens.length) : undefined
    return id === undefined ? [] : [{ SpecialToken: { id: tokens[id]!.text, type_id: 0 } }]
  }
  const single = [...around('bos', bos), { Sequence: { id: 'A', type_id: 0 } }, ...around('eos', eos)]
  return {
    version: '1.0',
    truncation: null,
    padding: null,
    added_tokens: addedTokens(metadata, tokens),
    post_processor: { type: 'TemplateProcessing', single, pair: single, special_tokens: {} },
  }
}

function addedTokens(metadata: Metadata, tokens: readonly Token[]): object[] {
  const { control, unknown, userDefined } = TOKEN_KIND
  // Phi 3 was trained so; a file has no place to say it.
  const strips = metadata.text('general.architecture') === 'phi3' && metadata.text('tokenizer.ggml.model') === 'llama'
  const keeps = new Set(['<unk>', '<s>', '<|endoftext|>'])
  return tokens
    .filter(({ kind }) => kind === control || kind === unknown || kind === userDefined)
    .map(({ id, text, kind }) => ({
      id,
      content: text,
      single_word: false,
      lstrip: false,
      rstrip: strips && !keeps.has(text),
      normalized: false,
      special: kind !== userDefined,
    }))
}
