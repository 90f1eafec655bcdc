import { createHash } from 'node:crypto'
import type { FastifyRequest } from 'fastify'
import { accountOf } from './access.ts'
import { invalid } from './errors.ts'

/** A request that may be sent again: under which name it is kept, and what it must be to be the same. */
export interface Repeatable {
  readonly account: string
  readonly key: string
  /** Of route and body. */
  readonly hash: string
}

const MOST_CHARACTERS = 255

/** Nothing if the client sends no `Idempotency-Key`. Throws `invalid_request`. */
export function repeatable(request: FastifyRequest): Repeatable | undefined {
  const key = request.headers['idempotency-key']
  if (key === undefined) return undefined
  if (typeof key !== 'string' || key === '' || key.length > MOST_CHARACTERS)
    throw invalid('Idempotency-Key', `Idempotency-Key must have 1 to ${MOST_CHARACTERS} characters`)
  const hash = createHash('sha256')
    .update(`${request.routeOptions.url}\n`)
    .update(JSON.stringify(request.body ?? null))
  return { account: accountOf(request).id, key, hash: hash.digest('base64') }
}

/** Under which name the KV of the request is kept: of whose it is, and of the key. */
export const keepUnder = ({ account, key }: Repeatable): string =>
  createHash('sha256')
    .update(JSON.stringify([account, key]))
    .digest('hex')

/** Where a stream goes on for a client that has seen the beginning: behind the event that `Last-Event-ID` names. */
export function resumeAt(request: FastifyRequest, answerId: string): number {
  const last = request.headers['last-event-id']
  const [, id, position] = typeof last === 'string' ? (/^(.+)\.(\d{1,9})$/.exec(last) ?? []) : []
  return id === answerId ? Number(position) + 1 : 0
}
