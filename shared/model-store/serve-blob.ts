import { createReadStream } from 'node:fs'
import type { IncomingMessage, ServerResponse } from 'node:http'
import { pipeline } from 'node:stream/promises'
import type { Shelf } from './shelf.ts'

/** Where coordinator and workers give files of their model away. */
export const BLOB_PATH = '/v1/model/blobs/'

const READ_BYTES = 1 << 20

/**
 * Answers GET and HEAD for one blob, whole or in one range (RFC 9110, section 14). 404: no such blob; 416: no such bytes, or
 * not yet. Resolves, with the bytes that were sent, when the answer is out or its reader gone.
 */
export async function serveBlob(
  shelf: Shelf,
  sha256: string,
  request: IncomingMessage,
  response: ServerResponse,
): Promise<number> {
  const blob = shelf.get(sha256)
  if (blob === undefined) return refuse(response, 404, {})
  const asked = request.headers.range
  const range = asked === undefined ? { start: 0, end: blob.size } : parseRange(asked, blob.size)
  if (range === undefined || blob.has?.(range.start, range.end) === false)
    return refuse(response, 416, { 'content-range': `bytes */${blob.size}` })
  const { start, end } = range
  response.writeHead(asked === undefined ? 200 : 206, {
    'content-type': 'application/octet-stream',
    'content-length': end - start,
    'accept-ranges': 'bytes',
    etag: `"${sha256}"`,
    ...(asked === undefined ? {} : { 'content-range': `bytes ${start}-${end - 1}/${blob.size}` }),
  })
  if (request.method === 'HEAD' || start === end) {
    response.end()
    return 0
  }
  return send(blob.path, start, end, response)
}

async function send(path: string, start: number, end: number, response: ServerResponse): Promise<number> {
  const file = createReadStream(path, { start, end: end - 1, highWaterMark: READ_BYTES })
  try {
    await pipeline(file, response, { end: false })
    if (file.bytesRead === end - start) response.end()
    else response.destroy() // the file has shrunk: who waits for the rest must hear of it
  } catch {
    response.destroy() // the reader has left, or the file cannot be read: what was promised will not come
  }
  return file.bytesRead
}

function refuse(response: ServerResponse, status: number, headers: Record<string, string>): number {
  response.writeHead(status, { 'content-length': 0, ...headers }).end()
  return 0
}

/** `bytes=a-b`, `bytes=a-`, `bytes=-n` to `[start, end)`; `undefined` for anything else, or beyond the file. */
function parseRange(header: string, size: number): { start: number; end: number } | undefined {
  const found = /^bytes=(\d{0,15})-(\d{0,15})$/.exec(header)
  if (found === null) return undefined
  const [, first = '', last = ''] = found
  if (first === '' && last === '') return undefined
  const start = first === '' ? Math.max(0, size - Number(last)) : Number(first)
  const end = first === '' || last === '' ? size : Math.min(size, Number(last) + 1)
  return start < end ? { start, end } : undefined
}
