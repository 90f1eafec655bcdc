import assert from 'node:assert/strict'
import { describe, it } from 'node:test'
import { shareModel } from '../../../coordinator/models/model-share.ts'
import { FileHashes } from '../../../shared/model-store/file-hashes.ts'
import { identifyModel } from '../../../shared/model-store/identity.ts'
import { parseManifest } from '../../../shared/model-store/manifest.ts'
import { startApi } from '../../support/api.ts'
import { bundledModel } from '../../support/paths.ts'
import { temporaryFolder } from '../../support/temporary.ts'

describe('the coordinator gives its model away', () => {
  it('as a manifest and blobs, counted', async () => {
    await using folder = await temporaryFolder()
    const local = await identifyModel(bundledModel, new FileHashes(folder.path))
    await using api = await startApi(undefined, { share: shareModel(local) })
    const manifest = parseManifest(await (await fetch(`${api.url}/v1/model/manifest`)).json())
    assert.equal(manifest.fingerprint, local.manifest.fingerprint)
    const config = manifest.files.find(({ name }) => name === 'config.json')!
    const blob = await fetch(`${api.url}/v1/model/blobs/${config.sha256}`, { headers: { range: 'bytes=0-0' } })
    assert.deepEqual([blob.status, await blob.text()], [206, '{'])
    const none = await fetch(`${api.url}/v1/model/blobs/${'0'.repeat(64)}`)
    assert.equal(none.status, 404)
    assert.equal(((await none.json()) as { error: { code: string } }).error.code, 'not_found')
    assert.match(await (await fetch(`${api.url}/metrics`)).text(), /^headrace_weights_sent_bytes_total 1$/m)
  })
})
