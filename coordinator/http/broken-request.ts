import { STATUS_CODES } from 'node:http'
import type { Socket } from 'node:net'
import { HeadraceError } from '../../shared/errors.ts'
import { errorBody } from './errors.ts'

const STATUS: Readonly<Record<string, number>> = { ERR_HTTP_REQUEST_TIMEOUT: 408, HPE_HEADER_OVERFLOW: 431 }

/** Answers bytes that are no HTTP request, or one that does not arrive in time: below the level of routes. */
export function answerBrokenRequest(error: Error & { code?: string }, socket: Socket): void {
  if (socket.writable && error.code !== 'ECONNRESET') {
    const status = STATUS[error.code ?? ''] ?? 400
    const reason = STATUS_CODES[status] ?? ''
    const body = JSON.stringify(errorBody(new HeadraceError('invalid_request', `no HTTP request: ${reason}`)))
    socket.write(
      `HTTP/1.1 ${status} ${reason}\r\ncontent-type: application/json\r\ncontent-length: ${Buffer.byteLength(body)}\r\n` +
        `connection: close\r\n\r\n${body}`,
    )
  }
  socket.destroy(error)
}
