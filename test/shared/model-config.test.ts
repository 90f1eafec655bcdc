import assert from 'node:assert/strict'
import { describe, test } from 'node:test'
import { HeadraceError } from '../../shared/errors.ts'
import { parseEosTokens, parseModelConfig } from '../../shared/model-config.ts'
import { llamaShape } from '../support/llama-shape.ts'

const BASE = {
  architectures: ['LlamaForCausalLM'],
  model_type: 'llama',
  hidden_act: 'silu',
  hidden_size: 256,
  intermediate_size: 704,
  num_hidden_layers: 8,
  num_attention_heads: 8,
  num_key_value_heads: 4,
  head_dim: 32,
  vocab_size: 4096,
  max_position_embeddings: 65536,
  rms_norm_eps: 1e-5,
  tie_word_embeddings: true,
  rope_theta: 500000,
}
const without = (...names: string[]) =>
  Object.fromEntries(Object.entries(BASE).filter(([name]) => !names.includes(name)))

const LLAMA3 = { factor: 8, low_freq_factor: 1, high_freq_factor: 4, original_max_position_embeddings: 8192 }

function refused(code: string, mentions: string, config: unknown): void {
  assert.throws(
    () => parseModelConfig(config),
    (error) => error instanceof HeadraceError && error.code === code && error.message.includes(mentions),
    `${mentions} in ${JSON.stringify(config)}`,
  )
}

describe('a Llama config', () => {
  test('in the older style gives the shape', () => {
    const sizes = { layers: 8, hidden: 256, heads: 8, kvHeads: 4, headDim: 32, ffn: 704, vocab: 4096 }
    assert.deepEqual(
      parseModelConfig({ ...BASE, torch_dtype: 'bfloat16', rope_scaling: null }),
      llamaShape({ ...sizes, contextLength: 65536, tiedHead: true }, { kind: 'default', theta: 500000 }),
    )
  })

  test('in the style of transformers 5 gives the same shape', () => {
    const newer = {
      ...without('rope_theta'),
      dtype: 'bfloat16',
      rope_parameters: { rope_type: 'default', rope_theta: 500000 },
    }
    assert.deepEqual(parseModelConfig(newer), parseModelConfig(BASE))
  })

  test('may leave out what transformers has defaults for', () => {
    const shape = parseModelConfig(
      without(
        'num_key_value_heads',
        'head_dim',
        'rope_theta',
        'rms_norm_eps',
        'tie_word_embeddings',
        'hidden_act',
        'architectures',
        'max_position_embeddings',
      ),
    )
    assert.equal(shape.kvHeads, 8)
    assert.equal(shape.headDim, 32)
    assert.equal(shape.normEpsilon, 1e-6)
    assert.equal(shape.tiedHead, false)
    assert.equal(shape.contextLength, 2048)
    assert.deepEqual(shape.layerShapes[0]!.rope, { kind: 'default', theta: 10000 })
  })

  test('may have a head_dim that is not hidden / heads', () => {
    assert.equal(parseModelConfig({ ...BASE, head_dim: 80 }).headDim, 80)
  })

  test('gives linear rope under either name and either place', () => {
    const linear = { kind: 'linear', theta: 500000, factor: 4 }
    for (const rope of [
      { rope_scaling: { type: 'linear', factor: 4 } },
      { rope_scaling: { rope_type: 'linear', factor: 4 } },
      { rope_scaling: { rope_type: 'linear', type: 'linear', factor: 4 } },
      { rope_parameters: { rope_type: 'linear', factor: 4, rope_theta: 500000 } },
      { rope_parameters: { rope_type: 'linear', factor: 4 }, rope_scaling: { type: 'linear', factor: 4 } },
    ])
      assert.deepEqual(parseModelConfig({ ...BASE, ...rope }).layerShapes[0]!.rope, linear)
  })

  test('gives llama3 rope in both styles', () => {
    const wanted = {
      kind: 'llama3',
      theta: 500000,
      factor: 8,
      lowFreqFactor: 1,
      highFreqFactor: 4,
      originalContextLength: 8192,
    }
    assert.deepEqual(
      parseModelConfig({ ...BASE, rope_scaling: { rope_type: 'llama3', ...LLAMA3 } }).layerShapes[0]!.rope,
      wanted,
    )
    const rope_parameters = { rope_type: 'llama3', rope_theta: 500000, ...LLAMA3 }
    assert.deepEqual(parseModelConfig({ ...without('rope_theta'), rope_parameters }).layerShapes[0]!.rope, wanted)
  })
})

/** Of 8 layers; `S` has a window, `F` sees all, lower case does not rotate, `x` after it has experts. */
function layersOf(config: object): string {
  return parseModelConfig(config)
    .layerShapes.map(({ window, rope, experts }) => {
      const kind = window === undefined ? 'F' : 'S'
      return (rope ? kind : kind.toLowerCase()) + (experts ? 'x' : '')
    })
    .join('')
}

describe('layers of other types', () => {
  const of = (model_type: string, more: object = {}) => layersOf({ ...BASE, architectures: null, model_type, ...more })

  test('have the windows that transformers gives them where the config is silent', () => {
    assert.equal(of('mistral'), 'SSSSSSSS')
    assert.equal(of('mistral', { sliding_window: null }), 'FFFFFFFF')
    assert.equal(of('qwen2'), 'FFFFFFFF')
    assert.equal(of('qwen2', { use_sliding_window: true, max_window_layers: 5 }), 'FFFFFSSS')
    assert.equal(of('qwen3', { use_sliding_window: true, sliding_window: null }), 'FFFFFFFF')
    assert.equal(of('gemma2'), 'SFSFSFSF')
    assert.equal(of('gemma3_text'), 'SSSSSFSS')
    assert.equal(of('gemma3_text', { sliding_window_pattern: 2 }), 'SFSFSFSF')
    assert.equal(of('phi3'), 'FFFFFFFF')
    assert.equal(of('phi3', { sliding_window: 64 }), 'SSSSSSSS')
    assert.equal(of('smollm3'), 'FFFfFFFf')
    assert.equal(of('smollm3', { no_rope_layers: [0, 1, 1, 0, 1, 1, 1, 1] }), 'fFFfFFFF')
    assert.equal(of('smollm3', { use_sliding_window: true, sliding_window: 9 }), 'FFFsFFFs')
  })

  test('follow layer_types where there are any', () => {
    const layer_types = [...'SSFFSSFF'].map((kind) => (kind === 'S' ? 'sliding_attention' : 'full_attention'))
    assert.equal(of('gemma2', { layer_types }), 'SSFFSSFF')
    assert.equal(of('qwen3', { layer_types, use_sliding_window: true }), 'SSFFSSFF')
    refused('model_bad_config', 'layer_types', { ...BASE, architectures: null, model_type: 'gemma2', layer_types: [] })
  })

  test('have experts where the config puts them', () => {
    assert.equal(of('mixtral'), 'FxFxFxFxFxFxFxFx')
    assert.equal(of('qwen3_moe', { decoder_sparse_step: 2, mlp_only_layers: [3] }), 'FFxFFFFxFFx')
    refused('model_bad_config', 'num_experts_per_tok', {
      ...BASE,
      architectures: null,
      model_type: 'mixtral',
      num_experts_per_tok: 9,
    })
  })
})

describe('a config is refused as unsupported', () => {
  const cases: [string, object][] = [
    ['model_type = "mamba"', { model_type: 'mamba' }],
    ['model_type = "constructor"', { model_type: 'constructor' }],
    ['architectures = "LlamaForSequenceClassification"', { architectures: ['LlamaForSequenceClassification'] }],
    ['hidden_act = "relu"', { hidden_act: 'relu' }],
    ['hidden_act = "toString"', { hidden_act: 'toString' }],
    ['mlp_bias = true', { model_type: 'qwen3', architectures: null, mlp_bias: true }],
    ['attention_bias = true', { model_type: 'mistral', architectures: null, attention_bias: true }],
    ['embedding_multiplier = 2', { embedding_multiplier: 2 }],
    ['num_experts = 8', { num_experts: 8 }],
    ['use_bidirectional_attention = true', { use_bidirectional_attention: true }],
    ['sliding_window = 4096', { sliding_window: 4096 }],
    ['layer_types = "sliding_attention"', { layer_types: ['full_attention', 'sliding_attention'] }],
    ['quantization_config = {"bits":4}', { quantization_config: { bits: 4 } }],
    ['partial_rotary_factor = 0.5', { partial_rotary_factor: 0.5 }],
    ['partial_rotary_factor = 0.5', { rope_parameters: { partial_rotary_factor: 0.5 } }],
    ['rope_type = "proportional"', { rope_scaling: { rope_type: 'proportional', factor: 4 } }],
    [
      'layer_types = "chunked_attention"',
      { model_type: 'qwen2', architectures: null, layer_types: ['chunked_attention'] },
    ],
  ]
  for (const [mentions, change] of cases)
    test(`naming ${mentions}`, () => refused('model_unsupported', mentions, { ...BASE, ...change }))

  test('but not for an option that is switched off', () => {
    const off = {
      sliding_window: null,
      quantization_config: null,
      attention_bias: false,
      layer_types: ['full_attention'],
    }
    assert.deepEqual(parseModelConfig({ ...BASE, ...off }), parseModelConfig(BASE))
    assert.deepEqual(
      parseModelConfig({ ...BASE, sliding_window: 4096, use_sliding_window: false }),
      parseModelConfig(BASE),
    )
  })
})

describe('a config is refused as bad', () => {
  test('when it is no object or has no model_type', () => {
    for (const config of [null, undefined, 'llama', 7, [], {}, { model_type: 3 }])
      refused('model_bad_config', '', config)
  })

  test('when a size is missing, of another type, fractional, zero, negative or absurd', () => {
    const sizes = ['hidden_size', 'intermediate_size', 'num_hidden_layers', 'num_attention_heads', 'vocab_size']
    for (const name of sizes) {
      refused('model_bad_config', name, without(name))
      for (const value of ['64', null, 1.5, 0, -8, 2 ** 40, Number.NaN, Number.POSITIVE_INFINITY, [8], {}])
        refused('model_bad_config', name, { ...BASE, [name]: value })
    }
    for (const name of ['head_dim', 'num_key_value_heads', 'max_position_embeddings'])
      for (const value of ['64', 1.5, 0, -8, 2 ** 40]) refused('model_bad_config', name, { ...BASE, [name]: value })
  })

  const contradictions: [string, string, object][] = [
    ['heads are not a multiple of KV heads', 'num_key_value_heads 3', { num_key_value_heads: 3 }],
    ['there are more KV heads than heads', 'num_key_value_heads 16', { num_key_value_heads: 16 }],
    ['head_dim is odd', 'head_dim 31', { head_dim: 31 }],
    [
      'hidden is no multiple of heads and head_dim is absent',
      'head_dim is absent',
      { head_dim: null, hidden_size: 250 },
    ],
    ['the epsilon is zero', 'rms_norm_eps', { rms_norm_eps: 0 }],
    ['a flag is text', 'tie_word_embeddings', { tie_word_embeddings: 'true' }],
    ['theta is negative', 'rope_theta', { rope_theta: -1 }],
    ['theta is given twice and differs', 'rope_theta', { rope_parameters: { rope_theta: 10000 } }],
    ['a linear rope has no factor', 'factor', { rope_scaling: { type: 'linear' } }],
    ['a rope shrinks', 'factor', { rope_scaling: { type: 'linear', factor: 0.5 } }],
    [
      'a llama3 rope lacks a factor',
      'low_freq_factor',
      { rope_scaling: { rope_type: 'llama3', ...LLAMA3, low_freq_factor: undefined } },
    ],
    [
      'low and high frequency factors are equal',
      'low_freq_factor',
      { rope_scaling: { rope_type: 'llama3', ...LLAMA3, high_freq_factor: 1 } },
    ],
    [
      'both names of the rope type differ',
      'contradicts',
      { rope_scaling: { rope_type: 'default', type: 'linear', factor: 2 } },
    ],
    [
      'both places of the rope differ',
      'contradict',
      { rope_parameters: { rope_type: 'default' }, rope_scaling: { type: 'linear', factor: 2 } },
    ],
  ] // prettier-ignore
  for (const [what, mentions, change] of contradictions)
    test(`when ${what}`, () => refused('model_bad_config', mentions, { ...BASE, ...change }))
})

describe('end tokens', () => {
  test('come from the generation config, else from the config, as a number or a list', () => {
    assert.deepEqual(parseEosTokens({ eos_token_id: 4 }), [4])
    assert.deepEqual(parseEosTokens({ eos_token_id: [4, 7, 4] }), [4, 7])
    assert.deepEqual(parseEosTokens({ eos_token_id: 4 }, { eos_token_id: [5, 6] }), [5, 6])
    assert.deepEqual(parseEosTokens({ eos_token_id: 4 }, { bos_token_id: 0 }), [4])
    assert.deepEqual(parseEosTokens({ eos_token_id: null }), [])
    assert.deepEqual(parseEosTokens({}), [])
  })

  test('that are no token ids are refused', () => {
    for (const eos_token_id of ['4', -1, 1.5, [null], { id: 4 }])
      assert.throws(() => parseEosTokens({ eos_token_id }), { code: 'model_bad_config' })
  })
})
