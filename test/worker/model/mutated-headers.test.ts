import assert from 'node:assert/strict'
import { describe, test } from 'node:test'
import { HeadraceError } from '../../../shared/errors.ts'
import { configOf } from '../../../shared/gguf/config.ts'
import { parseHeader as parseGguf } from '../../../shared/gguf/header.ts'
import { Metadata } from '../../../shared/gguf/metadata.ts'
import { tokenizerConfigOf, tokenizerOf } from '../../../shared/gguf/tokenizer.ts'
import { endTokens } from '../../../shared/gguf/vocabulary.ts'
import { huggingFaceTensors, namingOf } from '../../../worker/model/gguf-tensors.ts'
import { headerLength, PREFIX_BYTES, parseHeader as parseSafetensors } from '../../../worker/model/safetensors.ts'
import type { MetadataValue } from '../../support/gguf/fields.ts'
import { ggufBytes } from '../../support/gguf/write.ts'
import { randomInt, seededRandom } from '../../support/random.ts'
import { safetensors } from '../../support/tiny-model.ts'

const TRIALS = 20_000

/** A parse may take its objects, which are small, and copies of what is in the file; the claims are from 2^20 on. */
const MEMORY_BYTES = 1 << 20

const zeros = (...dims: number[]) => new Float32Array(dims.reduce((a, b) => a * b, 1))
const sizes = (architecture: string, ...keys: string[]): [string, MetadataValue][] =>
  keys.map((key) => [`${architecture}.${key}`, { u32: 8 }])
const COMMON = ['block_count', 'embedding_length', 'attention.head_count', 'context_length', 'feed_forward_length']

const GGUF_SEEDS = [
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

/** Everything that is made of a header before its tensors are read. */
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
    outcome(part)
}

const SAFETENSORS_SEEDS = [
  safetensors(
    [
      { name: 'a', dims: [2, 5], values: Array.from({ length: 10 }, (_, i) => i) },
      { name: 'b', dims: [3], values: [1, 2, 3] },
    ],
    'F32',
  ),
  safetensors(
    [{ name: 'model.embed_tokens.weight', dims: [4, 4], values: Array.from({ length: 16 }, () => 1) }],
    'BF16',
  ),
]

function openSafetensors(bytes: Uint8Array<ArrayBuffer>): void {
  const prefix = bytes.subarray(0, PREFIX_BYTES)
  const length = headerLength(prefix, bytes.length, 'mutated.safetensors')
  parseSafetensors(bytes.slice(PREFIX_BYTES, PREFIX_BYTES + length), bytes.length, 'mutated.safetensors')
}

const CODES = new Set(['model_bad_weights', 'model_unsupported', 'model_bad_config', 'model_bad_tokenizer'])

/** Whether it went well; any end but a coded error of these is a failure. */
function outcome(action: () => unknown): boolean {
  try {
    action()
    return true
  } catch (thrown) {
    assert.ok(thrown instanceof HeadraceError && CODES.has(thrown.code), String(thrown))
    return false
  }
}

const EXTREMES = [0n, 1n, 255n, 1n << 20n, 1n << 28n, (1n << 31n) - 1n, 1n << 32n, 1n << 53n, (1n << 64n) - 1n]

/** A few bytes or whole fields changed, a piece cut out or doubled, or the end cut off. */
function mutated(original: Uint8Array, random: () => number): Uint8Array<ArrayBuffer> {
  let bytes = Buffer.from(original)
  for (let change = randomInt(random, 3); change >= 0 && bytes.length > 0; change--) {
    const at = randomInt(random, bytes.length)
    const kind = randomInt(random, 8)
    if (kind < 4) bytes[at] = randomInt(random, 256)
    else if (kind === 4 && at + 8 <= bytes.length)
      bytes.writeBigUInt64LE(EXTREMES[randomInt(random, EXTREMES.length)]!, at)
    else if (kind === 5 && at + 4 <= bytes.length) bytes.writeUInt32LE(randomInt(random, 32), at)
    else if (kind === 6) bytes = Buffer.concat([bytes.subarray(0, at), bytes.subarray(randomInt(random, bytes.length))])
    else if (kind === 7 && randomInt(random, 4) === 0) bytes = bytes.subarray(0, at)
  }
  return Uint8Array.from(bytes)
}

function used(): number {
  const { heapUsed, external } = process.memoryUsage() // external has the array buffers in it
  return heapUsed + external
}

describe(`${TRIALS} mutated headers`, () => {
  for (const [format, seeds, open] of [
    ['GGUF', GGUF_SEEDS, openGguf],
    ['safetensors', SAFETENSORS_SEEDS, openSafetensors],
  ] as const)
    test(`of ${format} are read or refused by a code, in memory of their own size`, () => {
      const random = seededRandom(17)
      let opened = 0
      for (let trial = 0; trial < TRIALS; trial++) {
        const bytes = mutated(seeds[trial % seeds.length]!, random)
        const before = used()
        if (outcome(() => open(bytes))) opened += 1
        const grown = used() - before
        assert.ok(grown < MEMORY_BYTES, `trial ${trial}: ${grown} bytes for a file of ${bytes.length}`)
      }
      // else the mutations are too weak or too strong to find anything
      assert.ok(opened > TRIALS / 50 && opened < TRIALS * 0.95, `${opened} were read`)
    })
})
