import assert from 'node:assert/strict'
import { describe, test } from 'node:test'
import { parseModelConfig } from '../../shared/model-config.ts'

const SIZES = {
  hidden_size: 64,
  intermediate_size: 160,
  num_hidden_layers: 2,
  num_attention_heads: 4,
  num_key_value_heads: 4,
  vocab_size: 512,
}
const windows = (config: object) => parseModelConfig({ ...SIZES, ...config }).layerShapes.map(({ window }) => window)
const ropes = (config: object) => parseModelConfig({ ...SIZES, ...config }).layerShapes.map(({ rope }) => rope)

describe('what transformers writes or accepts in a config', () => {
  test('stray outer rope options beside the nested ones of a Gemma 3 with layers of one type', () => {
    const [full_attention, sliding_attention] = [1e6, 2e4].map((rope_theta) => ({ rope_type: 'default', rope_theta }))
    const nested = { full_attention, sliding_attention }
    const gemma = { model_type: 'gemma3_text', layer_types: ['sliding_attention', 'sliding_attention'] }
    assert.deepEqual(
      ropes({ ...gemma, rope_parameters: { ...nested, rope_type: 'default', rope_theta: null } }),
      Array(2).fill({ kind: 'default', theta: 2e4 }),
    )
    for (const stray of [{ rope_type: 'linear' }, { rope_theta: 5e5 }, { factor: 2 }])
      assert.throws(() => ropes({ ...gemma, rope_parameters: { ...nested, ...stray } }), { code: 'model_bad_config' })
  })

  test('but not one rope for the two types of layers of Gemma 3', () => {
    const gemma = { model_type: 'gemma3_text', layer_types: ['full_attention', 'sliding_attention'] }
    assert.throws(() => ropes({ ...gemma, rope_parameters: { rope_theta: 5e5 } }), { code: 'model_bad_config' })
    assert.deepEqual(ropes({ ...gemma, rope_theta: 5e5, rope_scaling: { type: 'linear', factor: 8 } }), [
      { kind: 'linear', theta: 5e5, factor: 8 },
      { kind: 'default', theta: 1e4 },
    ])
  })

  test('a YaRN mscale of 0 as if it were absent', () => {
    const yarn = { rope_type: 'yarn', factor: 4, original_max_position_embeddings: 128 }
    const llama = (rope_scaling: object) => ropes({ model_type: 'llama', rope_scaling })
    assert.deepEqual(llama({ ...yarn, mscale: 1, mscale_all_dim: 0 }), llama(yarn))
    assert.notDeepEqual(llama({ ...yarn, mscale: 1, mscale_all_dim: 0.5 }), llama(yarn))
  })

  test('a window on every layer of a type that has no layer_types, whatever they say', () => {
    const layer_types = ['full_attention', 'full_attention']
    assert.deepEqual(windows({ model_type: 'mistral', sliding_window: 8, layer_types }), [8, 8])
    assert.deepEqual(windows({ model_type: 'mistral', layer_types: null }), [4096, 4096])
    assert.deepEqual(windows({ model_type: 'mistral', sliding_window: null }), [undefined, undefined])
  })

  test('a list of layers without rope that is longer than the model', () => {
    const rotates = (no_rope_layers: number[]) => ropes({ model_type: 'smollm3', no_rope_layers }).map((rope) => !!rope)
    assert.deepEqual(rotates([0, 1, 1, 0]), [false, true])
    assert.throws(() => rotates([0]), { code: 'model_bad_config' })
  })
})
