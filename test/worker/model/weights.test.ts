import assert from 'node:assert/strict'
import { writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { describe, type TestContext, test } from 'node:test'
import { readModelShape } from '../../../shared/model-folder.ts'
import { PLAIN } from '../../../worker/engine/reference-engine.ts'
import { loadWeights } from '../../../worker/model/weights.ts'
import {
  createTinyModel,
  type NamedTensor,
  safetensors,
  type TinyModelOptions,
  tinyTensors,
} from '../../support/tiny-model.ts'

async function load(
  t: TestContext,
  options: Partial<TinyModelOptions>,
  change?: (all: NamedTensor[]) => NamedTensor[],
) {
  const model = await createTinyModel(options)
  t.after(() => model.remove())
  if (change) await writeFile(join(model.folder, 'model.safetensors'), safetensors(change(tinyTensors(options)), 'F32'))
  return loadWeights(model.folder, await readModelShape(model.folder), PLAIN)
}

const valuesOf = (all: readonly NamedTensor[], ...names: string[]) =>
  Float32Array.from(names.flatMap((name) => all.find((tensor) => tensor.name === name)!.values))

describe('weights', () => {
  test('are kept matrix by matrix', async (t) => {
    const all = tinyTensors({ layers: 2 })
    const { layers } = await load(t, { layers: 2 })
    const at = (name: string) => `model.layers.1.${name}.weight`
    const { q, k, v, o } = layers[1]!.attention
    const { gate, up, down } = layers[1]!.mlp!
    const names = ['q', 'k', 'v', 'o'].map((name) => `self_attn.${name}_proj`)
    const mlp = ['gate', 'up', 'down'].map((name) => `mlp.${name}_proj`)
    for (const [i, matrix] of [q, k, v, o, gate, up, down].entries())
      assert.deepEqual(matrix, valuesOf(all, at([...names, ...mlp][i]!)))
  })

  test('are the same from one file and from shards', async (t) => {
    assert.deepEqual(await load(t, { shards: 4, tied: false }), await load(t, { tied: false }))
  })

  test('use the embedding as the head where the config ties them', async (t) => {
    const tied = await load(t, { tied: true })
    assert.equal(tied.head[0], tied.embedding_vocab_dim)
    const untied = await load(t, { tied: false })
    assert.notDeepEqual(untied.head[0], untied.embedding_vocab_dim)
  })

  test('may store a tied head once more if it is the same', async (t) => {
    const again = (all: NamedTensor[]) => [...all, { ...all[0]!, name: 'lm_head.weight' }]
    const tied = await load(t, {}, again)
    assert.equal(tied.head[0], tied.embedding_vocab_dim)
    const other = (all: NamedTensor[]) =>
      again(all).map((x) => (x.name === 'lm_head.weight' ? { ...x, values: x.values.map((v) => v + 1) } : x))
    await assert.rejects(load(t, {}, other), { code: 'model_bad_tensor' })
  })

  test('may hold the rotary frequencies that old checkpoints store', async (t) => {
    const extra = { name: 'model.layers.0.self_attn.rotary_emb.inv_freq', dims: [4], values: [1, 2, 3, 4] }
    await load(t, {}, (all) => [...all, extra])
  })

  for (const { name, dims } of tinyTensors({ layers: 1, tied: false })) {
    test(`are refused by name when ${name} is missing or has another shape`, async (t) => {
      const options = { layers: 1, tied: false }
      const details = { tensor: name, expected: `[${dims}]`, found: 'nothing' }
      await assert.rejects(
        load(t, options, (all) => all.filter((x) => x.name !== name)),
        { code: 'model_bad_tensor', details },
      ) // prettier-ignore
      const flat = [dims.reduce((a, b) => a * b, 1), 1]
      await assert.rejects(
        load(t, options, (all) => all.map((x) => (x.name === name ? { ...x, dims: flat } : x))),
        { code: 'model_bad_tensor', details: { ...details, found: `[${flat}]` } },
      )
    })
  }

  test('are refused when they hold a tensor that Llama does not use', async (t) => {
    const bias = {
      name: 'model.layers.0.self_attn.q_proj.bias',
      dims: [32],
      values: Array.from({ length: 32 }, () => 0),
    }
    await assert.rejects(
      load(t, {}, (all) => [...all, bias]),
      { code: 'model_bad_tensor', message: /q_proj\.bias/ },
    )
  })
})
