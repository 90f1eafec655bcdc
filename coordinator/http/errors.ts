import type { FastifyReply } from 'fastify'
import type { z } from 'zod'
import { ERRORS, HeadraceError } from '../../shared/errors.ts'
import { safeParse } from '../../shared/safe-parse.ts'

/** OpenAI's error object. */
export interface ErrorBody {
  readonly error: {
    readonly message: string
    readonly type: string
    readonly param: string | null
    readonly code: string
  }
}

export function errorBody(error: HeadraceError): ErrorBody {
  const { param } = error.details
  return {
    error: {
      message: error.message,
      type: ERRORS[error.code].type,
      param: typeof param === 'string' && param !== '' ? param : null,
      code: error.code,
    },
  }
}

/** Long enough for a worker to come back or the queue to move, short enough for a person to wait. */
const RETRY_AFTER_SECONDS = 5

export function sendError(reply: FastifyReply, thrown: unknown): void {
  const error = httpError(thrown)
  const { status } = ERRORS[error.code]
  // A full queue knows how long it is; everything else that passes takes about as long as a person waits.
  const seconds = error.details['retryAfterSeconds'] ?? RETRY_AFTER_SECONDS
  if (status === 401) reply.header('www-authenticate', 'Bearer')
  if (status === 429 || status === 503) reply.header('retry-after', String(seconds))
  void reply.code(status).send(errorBody(error))
}

/** The fault of a request's field, named as the client wrote it. */
export const invalid = (param: string, message: string) =>
  new HeadraceError('invalid_request', message, { details: { param } })

/** Checks a body or query against its schema; the first fault is reported, with the path to it. */
export function parseWith<T>(schema: z.ZodType<T>, value: unknown): T {
  const parsed = safeParse(schema, value ?? {})
  if (parsed.success) return parsed.data
  const issue = parsed.error.issues[0]
  const param = issue?.path.join('.') ?? ''
  throw invalid(param, param === '' ? `the request is malformed: ${issue?.message}` : `${param}: ${issue?.message}`)
}

/** Anything thrown while serving, as a coded error whose message a client may read. */
export function httpError(thrown: unknown): HeadraceError {
  if (thrown instanceof HeadraceError) return thrown
  const { code, statusCode } = facts(thrown)
  const told = thrown instanceof Error ? thrown.message : 'the request cannot be read'
  if (code === 'FST_ERR_CTP_BODY_TOO_LARGE') return new HeadraceError('body_too_large', told, { cause: thrown })
  if (code === 'FST_ERR_CTP_INVALID_MEDIA_TYPE')
    return new HeadraceError('invalid_request', 'the header `content-type: application/json` is needed')
  if (JSON_FAULTS.has(code)) return new HeadraceError('invalid_json', 'the body is not valid JSON', { cause: thrown })
  if (statusCode === 404) return new HeadraceError('not_found', told, { cause: thrown })
  if (statusCode === 503) return new HeadraceError('shutting_down', ERRORS.shutting_down.help, { cause: thrown })
  if (statusCode >= 400 && statusCode < 500) return new HeadraceError('invalid_request', told, { cause: thrown })
  // What a defect says is for the log: it may name files or hold parts of a prompt.
  return new HeadraceError('internal', ERRORS.internal.help, { cause: thrown })
}

/** An empty body, a syntax error, a length that does not match, and keys such as `__proto__`. */
const JSON_FAULTS: ReadonlySet<string> = new Set([
  'FST_ERR_CTP_EMPTY_JSON_BODY',
  'FST_ERR_CTP_INVALID_JSON_BODY',
  'FST_ERR_CTP_INVALID_CONTENT_LENGTH',
])

/** What fastify and its parsers put on their errors. */
function facts(thrown: unknown): { code: string; statusCode: number } {
  const known = typeof thrown === 'object' && thrown !== null ? thrown : {}
  return {
    code: 'code' in known && typeof known.code === 'string' ? known.code : '',
    statusCode: 'statusCode' in known && typeof known.statusCode === 'number' ? known.statusCode : 500,
  }
}
