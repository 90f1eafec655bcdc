import { createHash } from 'node:crypto'
import { once } from 'node:events'
import { createServer, type IncomingMessage, type Server, type ServerResponse } from 'node:http'
import type { AddressInfo } from 'node:net'

export const COMMIT = 'c'.repeat(40)

/** Files of a repository; those in `large` are named by SHA-256 and given by another server, as on the real hub. */
export interface HubContent {
  readonly files: Readonly<Record<string, Buffer>>
  readonly large: readonly string[]
}

/** How a request goes wrong; `undefined` answers it well. Asked before each answer but the redirects. */
export type Trouble = (path: string, request: number) => Mishap | undefined
export type Mishap = { status: number; headers?: Record<string, string> } | 'cut' | 'wrong' | 'whole'

/** A server that speaks the hub's HTTP interface, and a store that it redirects to. */
export async function startHub({ files, large }: HubContent, trouble: Trouble = () => undefined) {
  const asked: { path: string; range: string | undefined; token: string | undefined }[] = []
  const listen = async (serve: (path: string, request: IncomingMessage, response: ServerResponse) => void) => {
    const server = createServer((request, response) => serve(request.url ?? '', request, response))
    server.listen(0, '127.0.0.1')
    await once(server, 'listening')
    return { server, url: `http://127.0.0.1:${(server.address() as AddressInfo).port}` }
  }
  const note = (path: string, { headers }: IncomingMessage): Mishap | undefined => {
    asked.push({ path, range: headers.range, token: headers.authorization })
    return trouble(path, asked.filter((one) => one.path === path).length - 1)
  }
  const store = await listen((path, request, response) => {
    give(files[path.slice('/store/'.length)], note(path, request), request, response)
  })
  const hub = await listen((path, request, response) => {
    const name = path.split('/').at(-1) ?? ''
    if (path === '/api/models/org/tiny/revision/main') json(response, note(path, request), { sha: COMMIT })
    else if (path === `/api/models/org/tiny/tree/${COMMIT}`) json(response, note(path, request), tree(files, large))
    else if (path === `/org/tiny/resolve/${COMMIT}/${name}` && large.includes(name))
      response.writeHead(302, { location: `${store.url}/store/${name}` }).end()
    else if (path.startsWith(`/org/tiny/resolve/${COMMIT}/`)) give(files[name], note(path, request), request, response)
    else {
      note(path, request)
      response.writeHead(404).end()
    }
  })
  return {
    url: hub.url,
    asked,
    [Symbol.asyncDispose]: async () => {
      await Promise.all([hub.server, store.server].map(stop))
    },
  }
}

async function stop(server: Server): Promise<void> {
  server.closeAllConnections()
  server.close()
  await once(server, 'close')
}

function tree(files: HubContent['files'], large: readonly string[]) {
  const entries = Object.entries(files).map(([path, bytes]) => {
    const oid = createHash('sha1').update(`blob ${bytes.length}\0`).update(bytes).digest('hex')
    const sha256 = createHash('sha256').update(bytes).digest('hex')
    const lfs = { oid: sha256, size: bytes.length, pointerSize: 130 }
    return { type: 'file', path, size: bytes.length, oid, ...(large.includes(path) ? { lfs } : {}) }
  })
  return [...entries, { type: 'directory', path: 'onnx', size: 0, oid: '0' }]
}

function json(response: ServerResponse, mishap: Mishap | undefined, body: unknown): void {
  if (typeof mishap === 'object') response.writeHead(mishap.status, mishap.headers).end()
  else response.end(JSON.stringify(body))
}

function give(
  whole: Buffer | undefined,
  mishap: Mishap | undefined,
  request: IncomingMessage,
  response: ServerResponse,
): void {
  if (typeof mishap === 'object' || whole === undefined) {
    const { status, headers } = typeof mishap === 'object' ? mishap : { status: 404, headers: {} }
    response.writeHead(status, headers).end()
    return
  }
  const start = Number(/^bytes=(\d+)-$/.exec(request.headers.range ?? '')?.[1] ?? 0)
  const ranged = start > 0 && mishap !== 'whole'
  const bytes = Buffer.from(whole.subarray(ranged ? start : 0))
  if (mishap === 'wrong') bytes[bytes.length >> 1]! ^= 1
  const range = ranged ? { 'content-range': `bytes ${start}-${whole.length - 1}/${whole.length}` } : {}
  response.writeHead(ranged ? 206 : 200, { 'content-length': bytes.length, etag: '"x"', ...range })
  if (mishap === 'cut') response.write(bytes.subarray(0, bytes.length >> 1), () => response.destroy())
  else response.end(bytes)
}
