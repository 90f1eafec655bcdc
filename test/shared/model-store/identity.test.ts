import assert from 'node:assert/strict'
import { cp, mkdtemp, readFile, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { describe, type TestContext, test } from 'node:test'
import { FileHashes } from '../../../shared/model-store/file-hashes.ts'
import { identifyModel } from '../../../shared/model-store/identity.ts'
import { createTinyModel } from '../../support/tiny-model.ts'

async function temporary(t: TestContext): Promise<string> {
  const folder = await mkdtemp(join(tmpdir(), 'headrace-identity-'))
  t.after(() => rm(folder, { recursive: true }))
  return folder
}

/** Hashes are looked up nowhere: each time in a cache of its own. */
const fingerprint = async (t: TestContext, model: string): Promise<string> =>
  (await identifyModel(model, new FileHashes(await temporary(t)))).manifest.fingerprint

describe('a fingerprint', () => {
  test('is 64 hex digits and does not depend on where the folder lies', async (t) => {
    const { folder, remove } = await createTinyModel()
    t.after(remove)
    const copy = await temporary(t)
    await cp(folder, copy, { recursive: true })
    assert.match(await fingerprint(t, folder), /^[0-9a-f]{64}$/)
    assert.equal(await fingerprint(t, copy), await fingerprint(t, folder))
  })

  test('changes with any byte of config, weights or tokenizer, and with nothing else', async (t) => {
    const { folder, remove } = await createTinyModel({ shards: 2 })
    t.after(remove)
    const seen = new Set([await fingerprint(t, folder)])
    await writeFile(join(folder, 'README.md'), 'a card')
    assert.ok(seen.has(await fingerprint(t, folder)))
    await writeFile(join(folder, 'tokenizer.json'), '{}')
    seen.add(await fingerprint(t, folder))
    for (const file of ['config.json', 'tokenizer.json', 'model-00002-of-00002.safetensors']) {
      const bytes = await readFile(join(folder, file))
      bytes[bytes.length - 1]! ^= 1
      await writeFile(join(folder, file), bytes)
      seen.add(await fingerprint(t, folder))
    }
    assert.equal(seen.size, 5)
  })
})
