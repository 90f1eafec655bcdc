import type { ErrorCode } from '../../../shared/errors.ts'
import { configOf } from '../../../shared/gguf/config.ts'
import { parseHeader as parseGguf } from '../../../shared/gguf/header.ts'
import { Metadata } from '../../../shared/gguf/metadata.ts'
import { tokenizerConfigOf, tokenizerOf } from '../../../shared/gguf/tokenizer.ts'
import { endTokens } from '../../../shared/gguf/vocabulary.ts'
import { huggingFaceTensors, namingOf } from '../../../worker/model/gguf-tensors.ts'
import { headerLength, PREFIX_BYTES, parseHeader as parseSafetensors } from '../../../worker/model/safetensors.ts'
import type { MetadataValue } from '../../support/gguf/fields.ts'
import { ggufBytes } from '../../support/gguf/write.ts'
import { safetensors as safetensorsBytes } from '../../support/tiny-model.ts'
import { damaged } from '../damage.ts'
import { outcome, type Target } from '../target.ts'

/** Files of weights: what is read of them before any tensor is. */

const CODES: ReadonlySet<ErrorCode> = new Set([
  'model_bad_weights',
  'model_unsupported',
  'model_bad_config',
  'model_bad_tokenizer',
] as const)

const zeros = (...dims: number[]) => new Float32Array(dims.reduce((a, b) => a * b, 1))
const sizes = (architecture: string, ...keys: string[]): [string, MetadataValue][] =>
  keys.map((key) => [`${architecture}.${key}`, { u32: 8 }])
const COMMON = ['block_count', 'embedding_length', 'attention.head_count', 'context_length', 'feed_forward_length']

const ggufSeeds = () => [
  ggufBytes(
    [
      ['general.architecture', { text: 'gemma3' }],
      ...sizes('gemma3', ...COMMON, 'attention.sliding_window'),
      ['gemma3.attention.layer_norm_rms_epsilon', { f32: 1e-6 }],
      ['tokenizer.ggml.model', { text: 'llama' }],
      ['tokenizer.ggml.tokens', { texts: ['<unk>', '<s>', '</s>', '▁a', '▁', 'a'] }],
      ['tokenizer.ggml.scores', { f32s: [0, 0, 0, -1, -2, -3] }],
      ['tokenizer.ggml.token_type', { i32s: [2, 3, 3, 1, 1, 1] }],
    ],
    [
      { name: 'token_embd.weight', dims: [6, 8], values: zeros(6, 8) },
      { name: 'blk.0.ffn_gate_exps.weight', dims: [2, 4, 8], values: zeros(2, 4, 8) },
      { name: 'blk.0.attn_qkv.weight', dims: [24, 8], values: zeros(24, 8) },
    ],
  ),
  ggufBytes(
    [
      ['general.architecture', { text: 'smollm3' }],
      ...sizes('smollm3', ...COMMON, 'split.count'),
      ['smollm3.attention.layer_norm_rms_epsilon', { f32: 1e-6 }],
      ['tokenizer.ggml.model', { text: 'gpt2' }],
      ['tokenizer.ggml.pre', { text: 'smaug-bpe' }],
      ['tokenizer.ggml.tokens', { texts: ['a', 'b', 'ab'] }],
      ['tokenizer.ggml.merges', { texts: ['a b'] }],
      ['tokenizer.ggml.add_bos_token', { flag: true }],
    ],
    [
      { name: 'token_embd.weight', dims: [3, 256], values: zeros(3, 256) },
      { name: 'blk.0.attn_q.weight', dims: [4, 256], values: zeros(4, 256) },
    ],
    'Q4_K',
  ),
]

/** Every type of a metadata value, array or not, and keys that are read. */
const GGUF_WORDS = [
  ...Array.from({ length: 14 }, (_, type) => [type, 0, 0, 0]),
  ...Array.from({ length: 14 }, (_, type) => [9, 0, 0, 0, type, 0, 0, 0]),
  [...Buffer.from('GGUF')],
  ...['general.alignment', 'tokenizer.ggml.tokens', 'split.no', '.rope.scaling.type'].map((key) => [
    key.length,
    ...[0, 0, 0, 0, 0, 0, 0],
    ...Buffer.from(key),
  ]),
].map((word) => Uint8Array.from(word))

export const gguf: Target = {
  name: 'gguf',
  weight: 5,
  open: async () => {
    const seeds = ggufSeeds()
    return {
      input: (dice) => damaged(dice, dice.oneOf(seeds), GGUF_WORDS),
      take: (input) => outcome(CODES, () => openGguf(Uint8Array.from(input))),
    }
  },
}

/** Everything that is made of a header before its tensors are read; each part may refuse the file on its own. */
function openGguf(bytes: Uint8Array<ArrayBuffer>): void {
  const header = parseGguf(bytes, bytes.length, 'mutated.gguf')
  const metadata = new Metadata(header.metadata, header.file)
  for (const part of [
    () => configOf({ metadata, tensors: header.tensors, factors: { scaled: Float32Array.of(1, 2, 4, 8) } }),
    () => endTokens(metadata),
    () => tokenizerOf(metadata),
    () => tokenizerConfigOf(metadata),
    () => [...huggingFaceTensors(header, namingOf(header))],
  ])
    outcome(CODES, part)
}

const JSON_WORDS = [
  '"F32"',
  '"BF16"',
  '"shape":[',
  '[0,18446744073709551615]',
  '1e99',
  '-1',
  '"__proto__":{}',
  '}',
  '"',
].map((word) => new TextEncoder().encode(word))

export const safetensors: Target = {
  name: 'safetensors',
  weight: 4,
  open: async () => {
    const numbers = (count: number) => Array.from({ length: count }, (_, i) => i)
    const seeds = [
      safetensorsBytes(
        [
          { name: 'a', dims: [2, 5], values: numbers(10) },
          { name: 'b', dims: [3], values: numbers(3) },
        ],
        'F32',
      ),
      safetensorsBytes([{ name: 'model.embed_tokens.weight', dims: [4, 4], values: numbers(16) }], 'BF16'),
    ]
    return {
      input: (dice) => damaged(dice, dice.oneOf(seeds), JSON_WORDS),
      take: (input) => outcome(CODES, () => openSafetensors(Uint8Array.from(input))),
    }
  },
}

function openSafetensors(bytes: Uint8Array<ArrayBuffer>): void {
  const prefix = bytes.subarray(0, PREFIX_BYTES)
  const length = headerLength(prefix, bytes.length, 'mutated.safetensors')
  parseSafetensors(bytes.slice(PREFIX_BYTES, PREFIX_BYTES + length), bytes.length, 'mutated.safetensors')
}
