import { createHash } from 'node:crypto'
import { once } from 'node:events'
import { createServer, type ServerResponse } from 'node:http'
import type { AddressInfo } from 'node:net'
import { fingerprintOf, type Manifest, type ManifestFile } from '../../shared/model-store/manifest.ts'

/** A model of random-looking bytes, in small pieces. */
export function madeUpModel(sizes: Readonly<Record<string, number>>, pieceBytes: number) {
  const contents = new Map<string, Buffer>()
  const files = Object.entries(sizes).map(([name, size]): ManifestFile => {
    const bytes = Buffer.from(Array.from({ length: size }, (_, i) => (i * 31 + (i >> 8) * 17 + name.length) & 255))
    const sha256 = hash(bytes)
    contents.set(sha256, bytes)
    const pieces = Array.from({ length: Math.ceil(size / pieceBytes) }, (_, i) =>
      hash(bytes.subarray(i * pieceBytes, (i + 1) * pieceBytes)),
    )
    return { name, role: name === 'config.json' ? 'config' : 'weights', size, sha256, pieces }
  })
  const fingerprint = fingerprintOf(files)
  const manifest: Manifest = { object: 'model_manifest', fingerprint, piece_bytes: pieceBytes, files }
  return { manifest, contents }
}

const hash = (bytes: Uint8Array): string => createHash('sha256').update(bytes).digest('hex')

/** What to do with a request for a piece: answer well, or in one of the ways that sources go wrong. */
export type Deed = 'give' | 'lie' | 'cut' | 'missing' | 'fail' | 'hang'

/** A source of pieces that does as it is told, and remembers what it was asked for. */
export async function serveModel(
  { manifest, contents }: ReturnType<typeof madeUpModel>,
  deedFor: (request: number, range: string) => Deed = () => 'give',
) {
  const asked: string[] = []
  const hanging: ServerResponse[] = []
  let changed = (): void => undefined
  const server = createServer((request, response) => {
    if (request.url === '/v1/model/manifest') {
      response.end(JSON.stringify(manifest))
      return
    }
    const [, name = ''] = /^\/v1\/model\/blobs\/(\w+)$/.exec(request.url ?? '') ?? []
    const content = contents.get(name)
    if (content === undefined) {
      response.writeHead(404).end() // such as links, which this source does not take
      return
    }
    const range = request.headers.range ?? ''
    const [, start = 0, last = 0] = (/^bytes=(\d+)-(\d+)$/.exec(range) ?? []).map(Number)
    asked.push(`${name.slice(0, 8)} ${start}`)
    const bytes = Buffer.from(content.subarray(start, last + 1))
    const deed = deedFor(asked.length - 1, range)
    if (deed === 'lie') bytes[bytes.length >> 1]! ^= 1
    if (deed === 'missing' || deed === 'fail') response.writeHead(deed === 'fail' ? 500 : 416).end()
    else {
      response.writeHead(206, { 'content-length': bytes.length })
      if (deed === 'cut') response.write(bytes.subarray(0, bytes.length >> 1), () => response.destroy())
      else if (deed === 'hang') hanging.push(response)
      else response.end(bytes)
    }
    changed()
  })
  server.listen(0, '127.0.0.1')
  await once(server, 'listening')
  return {
    url: `http://127.0.0.1:${(server.address() as AddressInfo).port}`,
    /** In order: the first letters of the blob, and where the range begins. */
    asked,
    /** Resolves once so many requests hang. */
    hung: async (count: number): Promise<void> => {
      while (hanging.length < count)
        await new Promise<void>((resolve) => {
          changed = resolve
        })
    },
    [Symbol.asyncDispose]: async () => {
      server.closeAllConnections()
      server.close()
      await once(server, 'close')
    },
  }
}
