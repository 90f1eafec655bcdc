import assert from 'node:assert/strict'
import { rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { describe, type TestContext, test } from 'node:test'
import {
  locateModel,
  readChatTemplate,
  readEosTokens,
  readModelShape,
  readTokenizer,
} from '../../shared/model-folder.ts'
import { bundledModel } from '../support/paths.ts'
import { createTinyModel, type TinyModelOptions } from '../support/tiny-model.ts'

async function tinyFolder(t: TestContext, options: Partial<TinyModelOptions> = {}): Promise<string> {
  const model = await createTinyModel(options)
  t.after(() => model.remove())
  return model.folder
}

describe('a model folder', () => {
  test('with one weight file is located', async (t) => {
    const folder = await tinyFolder(t)
    const model = await locateModel(folder)
    assert.deepEqual(model, { config: join(folder, 'config.json'), weights: [join(folder, 'model.safetensors')] })
  })

  test('with shards is located by its index', async (t) => {
    const folder = await tinyFolder(t, { shards: 3 })
    const { weights } = await locateModel(folder)
    assert.equal(weights.length, 3)
    assert.equal(weights[0], join(folder, 'model-00001-of-00003.safetensors'))
  })

  for (const file of ['config.json', 'model.safetensors'])
    test(`without ${file} is incomplete by name`, async (t) => {
      const folder = await tinyFolder(t)
      await rm(join(folder, file))
      await assert.rejects(locateModel(folder), { code: 'model_incomplete', details: { file } })
    })

  test('without one of its shards is incomplete by name', async (t) => {
    const folder = await tinyFolder(t, { shards: 2 })
    const file = 'model-00002-of-00002.safetensors'
    await rm(join(folder, file))
    await assert.rejects(locateModel(folder), { code: 'model_incomplete', details: { file } })
  })

  test('that does not exist is incomplete', async () => {
    await assert.rejects(locateModel(join(tmpdir(), 'headrace-nowhere')), { code: 'model_incomplete' })
  })

  test('whose index leads out of it is refused', async (t) => {
    const folder = await tinyFolder(t, { shards: 2 })
    const outside = ['../evil.safetensors', '/etc/evil.safetensors', 'a/b.safetensors', '..\\x.safetensors']
    for (const name of [...outside, '.hidden.safetensors', 'model.bin', 'nul\0.safetensors', '', 7, null]) {
      await writeFile(join(folder, 'model.safetensors.index.json'), JSON.stringify({ weight_map: { x: name } }))
      await assert.rejects(locateModel(folder), { code: 'model_bad_weights' }, String(name))
    }
    for (const index of ['{', '[]', '{"weight_map":{}}', '{"weight_map":7}']) {
      await writeFile(join(folder, 'model.safetensors.index.json'), index)
      await assert.rejects(locateModel(folder), { code: 'model_bad_weights' }, index)
    }
  })

  test('whose config is not JSON is refused', async (t) => {
    const folder = await tinyFolder(t)
    await writeFile(join(folder, 'config.json'), '{"model_type":')
    await assert.rejects(readModelShape(folder), { code: 'model_bad_config' })
  })
})

describe('the bundled model', () => {
  test('has its shape, end token, tokenizer and template', async () => {
    assert.equal((await readModelShape(bundledModel)).layers, 8)
    assert.deepEqual(await readEosTokens(bundledModel), [4])
    assert.ok('model' in (await readTokenizer(bundledModel)))
    assert.match((await readChatTemplate(bundledModel)) ?? '', /messages/)
  })
})

describe('a chat template', () => {
  test('is read from the tokenizer config where it has no file of its own, and may be absent', async (t) => {
    const folder = await tinyFolder(t)
    const write = (value: unknown) => writeFile(join(folder, 'tokenizer_config.json'), JSON.stringify(value))
    assert.equal(await readChatTemplate(folder), undefined)
    await write({})
    assert.equal(await readChatTemplate(folder), undefined)
    await write({ chat_template: 'one' })
    assert.equal(await readChatTemplate(folder), 'one')
    await write({
      chat_template: [
        { name: 'tool_use', template: 'tools' },
        { name: 'default', template: 'two' },
      ],
    }) // prettier-ignore
    assert.equal(await readChatTemplate(folder), 'two')
    await write({ chat_template: 7 })
    await assert.rejects(readChatTemplate(folder), { code: 'model_bad_tokenizer' })
    await writeFile(join(folder, 'chat_template.jinja'), 'three')
    assert.equal(await readChatTemplate(folder), 'three')
  })
})
