import assert from 'node:assert/strict'
import { once } from 'node:events'
import { writeFile } from 'node:fs/promises'
import { createServer } from 'node:http'
import type { AddressInfo } from 'node:net'
import { join } from 'node:path'
import { describe, it } from 'node:test'
import { PieceSet } from '../../../shared/model-store/piece-set.ts'
import { serveBlob } from '../../../shared/model-store/serve-blob.ts'
import { partialBlob, Shelf } from '../../../shared/model-store/shelf.ts'
import { temporaryFolder } from '../../support/temporary.ts'

const WHOLE = 'a'.repeat(64)
const PART = 'b'.repeat(64)
const GONE = 'c'.repeat(64)

/** A file of 26 letters, whole; and one of which the second and third of five pieces are there. */
async function startShelf() {
  const folder = await temporaryFolder()
  const path = join(folder.path, 'blob')
  await writeFile(path, 'abcdefghijklmnopqrstuvwxyz')
  const shelf = new Shelf()
  shelf.put(WHOLE, { path, size: 26 })
  const have = new PieceSet(9)
  for (const piece of [5, 6]) have.add(piece)
  shelf.put(PART, partialBlob(path, 26, 6, 4, have))
  shelf.put(GONE, { path: join(folder.path, 'gone'), size: 26 })
  const server = createServer((request, response) => {
    void serveBlob(shelf, (request.url ?? '').slice(1), request, response)
  })
  server.listen(0, '127.0.0.1')
  await once(server, 'listening')
  const url = `http://127.0.0.1:${(server.address() as AddressInfo).port}`
  return {
    get: async (blob: string, range?: string, method = 'GET') => {
      const answer = await fetch(`${url}/${blob}`, { method, ...(range === undefined ? {} : { headers: { range } }) })
      return { status: answer.status, range: answer.headers.get('content-range'), text: await answer.text(), answer }
    },
    [Symbol.asyncDispose]: async () => {
      server.closeAllConnections()
      server.close()
      await folder[Symbol.asyncDispose]()
    },
  }
}

describe('a blob is served', () => {
  it('whole, or in a range', async () => {
    await using shelf = await startShelf()
    const whole = await shelf.get(WHOLE)
    assert.equal(whole.status, 200)
    assert.equal(whole.text, 'abcdefghijklmnopqrstuvwxyz')
    assert.equal(whole.answer.headers.get('etag'), `"${WHOLE}"`)
    const ranges: [string, string, string][] = [
      ['bytes=0-0', 'a', 'bytes 0-0/26'],
      ['bytes=3-5', 'def', 'bytes 3-5/26'],
      ['bytes=20-', 'uvwxyz', 'bytes 20-25/26'],
      ['bytes=20-999', 'uvwxyz', 'bytes 20-25/26'],
      ['bytes=-2', 'yz', 'bytes 24-25/26'],
    ]
    for (const [asked, text, range] of ranges) {
      const answer = await shelf.get(WHOLE, asked)
      assert.deepEqual([answer.status, answer.text, answer.range], [206, text, range], asked)
    }
    const head = await shelf.get(WHOLE, 'bytes=3-5', 'HEAD')
    assert.deepEqual([head.status, head.text, head.answer.headers.get('content-length')], [206, '', '3'])
  })

  it('not beyond its end, and in no range that is none', async () => {
    await using shelf = await startShelf()
    for (const asked of [
      'bytes=26-',
      'bytes=5-4',
      'bytes=-',
      'bytes=0-1,4-5',
      'bytes=-0',
      'items=0-1',
      `bytes=${'9'.repeat(30)}-`,
    ]) {
      const answer = await shelf.get(WHOLE, asked)
      assert.deepEqual([answer.status, answer.range], [416, 'bytes */26'], asked)
    }
  })

  it('as far as it has come', async () => {
    await using shelf = await startShelf()
    assert.equal((await shelf.get(PART, 'bytes=6-17')).text, 'ghijklmnopqr')
    assert.equal((await shelf.get(PART, 'bytes=12-12')).text, 'm')
    for (const asked of ['bytes=5-6', 'bytes=0-5', 'bytes=17-18', undefined])
      assert.equal((await shelf.get(PART, asked)).status, 416)
  })

  it('by its hash alone: nothing in a request is a path', async () => {
    await using shelf = await startShelf()
    for (const name of ['', 'blob', '..%2Fblob', `${WHOLE}/..`, '__proto__', 'constructor', 'd'.repeat(64)])
      assert.equal((await shelf.get(name)).status, 404, name)
  })

  it('in no part if it cannot be read: the connection breaks', async () => {
    await using shelf = await startShelf()
    await assert.rejects(shelf.get(GONE))
  })
})
