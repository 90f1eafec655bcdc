import { isIP } from 'node:net'
import type { FastifyInstance } from 'fastify'
import { HeadraceError } from '../../shared/errors.ts'

/** How long a browser may remember the answer to a preflight, seconds. */
const MAX_AGE_SECONDS = 600
const METHODS = 'GET, POST'
const HEADERS = 'authorization, content-type, idempotency-key, last-event-id'
const EXPOSED = 'retry-after, idempotent-replayed'

/**
 * Lets pages of these origins read answers; without any, browsers keep every page out. Credentials are never allowed:
 * whoever may ask has a key, or may ask anyway.
 */
export function allowOrigins(app: FastifyInstance, origins: readonly string[]): void {
  if (origins.length === 0) return
  app.addHook('onRequest', (request, reply, done) => {
    // The answer differs by who asks, also for those who are refused.
    void reply.header('vary', 'origin')
    const { origin } = request.headers
    if (origin === undefined || !origins.includes(origin)) return done()
    void reply.headers({ 'access-control-allow-origin': origin, 'access-control-expose-headers': EXPOSED })
    if (request.method !== 'OPTIONS' || request.headers['access-control-request-method'] === undefined) return done()
    void reply
      .headers({
        'access-control-allow-methods': METHODS,
        'access-control-allow-headers': HEADERS,
        'access-control-max-age': MAX_AGE_SECONDS,
      })
      .code(204)
      .send()
  })
}

/**
 * Where no key is needed, a page of a stranger must not ask either: it could not read the answer, but make the cluster
 * work; and if its name is made to point here (DNS rebinding), it could read. So requests that carry an origin pass only if
 * it is one of those allowed, or this very server's under an address that no name server decides.
 */
export function refuseStrangePages(app: FastifyInstance, origins: readonly string[]): void {
  app.addHook('onRequest', (request, _reply, done) => {
    const { origin, host } = request.headers
    const known = origin === undefined || origins.includes(origin) || isSelf(origin, host)
    const error = () => new HeadraceError('access_denied', `pages of ${origin?.slice(0, 100)} may not ask (\`--cors\`)`)
    done(known ? undefined : error())
  })
}

function isSelf(origin: string, host: string | undefined): boolean {
  if (!URL.canParse(origin)) return false
  const url = new URL(origin)
  const named = url.hostname !== 'localhost' && isIP(url.hostname.replace(/^\[(.*)\]$/, '$1')) === 0
  return !named && url.host === host
}

/** An origin as browsers send it: scheme, host and port, nothing behind. Throws `bad_config`. */
export function checkOrigin(text: string): string {
  if (URL.canParse(text) && new URL(text).origin === text) return text
  throw new HeadraceError('bad_config', `--cors ${text} is not an origin such as https://app.example.org`)
}
