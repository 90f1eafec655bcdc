import { type FastifyError, type FastifyInstance, type FastifyReply, fastify, type HTTPMethods } from 'fastify'
import { asHeadraceError, ERRORS, HeadraceError } from '../../shared/errors.ts'
import { guardRoutes, OPEN_ACCESS } from './access.ts'
import { answerBrokenRequest } from './broken-request.ts'
import { chatRoutes } from './chat.ts'
import { completionRoutes } from './completions.ts'
import { allowOrigins, refuseStrangePages } from './cors.ts'
import type { ServerDeps } from './deps.ts'
import { httpError, sendError } from './errors.ts'
import { countRequests, zeroRequests } from './http-metrics.ts'
import { infoRoutes } from './routes-info.ts'
import { joinRoutes } from './routes-join.ts'
import { modelShareRoutes } from './routes-model.ts'
import { runRoutes } from './routes-runs.ts'
import { tokenRoutes } from './routes-tokens.ts'

/** A prompt of a million tokens as JSON stays below. */
const DEFAULT_BODY_LIMIT_BYTES = 32 << 20
const MAX_CONNECTIONS = 1024
const MAX_HEADER_BYTES = 16 * 1024
const MAX_HEADERS = 100

/** The OpenAI-compatible API. The caller listens and closes; what a request may cost is bounded here. */
export function buildServer(deps: ServerDeps): FastifyInstance {
  const app = instance(deps)
  app.server.maxConnections = MAX_CONNECTIONS
  app.server.maxHeadersCount = MAX_HEADERS
  // A web page may send plain text to any address without asking; JSON it may not.
  app.removeContentTypeParser('text/plain')

  countRequests(app, deps)
  refuseWhileClosing(app)
  allowOrigins(app, deps.cors ?? [])
  const access = deps.access ?? OPEN_ACCESS
  if (access.keys === undefined) refuseStrangePages(app, deps.cors ?? [])
  guardRoutes(app, access, deps.clock)
  answerErrors(app, deps)
  const routes = nameMethods(app, () => {
    chatRoutes(app, deps)
    completionRoutes(app, deps)
    tokenRoutes(app, deps)
    infoRoutes(app, deps)
    runRoutes(app, deps)
    modelShareRoutes(app, deps)
    if (deps.authority !== undefined) joinRoutes(app, deps.authority, deps.metrics)
  })
  zeroRequests(deps.metrics, routes)
  return app
}

function instance(deps: ServerDeps): FastifyInstance {
  const { bodyLimitBytes, authority, headerSeconds = 10, requestSeconds = 30 } = deps
  const headersTimeout = headerSeconds * 1000
  const options = {
    bodyLimit: bodyLimitBytes ?? DEFAULT_BODY_LIMIT_BYTES,
    // Both are about receiving a request; an answer may take as long as its prefill.
    requestTimeout: requestSeconds * 1000,
    keepAliveTimeout: 10_000,
    maxRequestsPerSocket: 10_000,
    // Answers that are being streamed may end; connections that wait for another request are closed.
    forceCloseConnections: 'idle' as const,
    return503OnClosing: false,
    clientErrorHandler: answerBrokenRequest,
    frameworkErrors: (error: FastifyError, _request: unknown, reply: FastifyReply) => sendError(reply, error),
  }
  const sockets = { headersTimeout, connectionsCheckingInterval: headersTimeout / 2, maxHeaderSize: MAX_HEADER_BYTES }
  if (authority === undefined) return fastify({ ...options, http: sockets })
  const https = { ...sockets, ...authority.membership.serverOptions }
  const app = fastify({ ...options, https })
  authority.membership.follow(app.server)
  // Routes do not care what carries them; only the type of the socket's server differs.
  return app as unknown as FastifyInstance
}

function refuseWhileClosing(app: FastifyInstance): void {
  let closing = false
  app.addHook('preClose', (done) => {
    closing = true
    done()
  })
  app.addHook('onRequest', (_request, _reply, done) => {
    done(closing ? new HeadraceError('shutting_down', ERRORS.shutting_down.help) : undefined)
  })
}

function answerErrors(app: FastifyInstance, { log }: ServerDeps): void {
  app.setNotFoundHandler(({ method, url }, reply) =>
    sendError(reply, new HeadraceError('not_found', `there is no ${method} ${url.split('?', 1)[0]?.slice(0, 200)}`)),
  )
  app.setErrorHandler((thrown, _request, reply) => {
    const { code } = httpError(thrown)
    if (ERRORS[code].status === 500) log.error({ err: asHeadraceError(thrown), code }, 'a request failed')
    sendError(reply, thrown)
  })
}

const METHODS: readonly HTTPMethods[] = ['GET', 'HEAD', 'POST', 'PUT', 'PATCH', 'DELETE', 'OPTIONS']

/** Adds, to each route, an answer for the methods that it does not have: 405 with those that it has. */
function nameMethods(app: FastifyInstance, addRoutes: () => void): ReadonlyMap<string, HTTPMethods[]> {
  const known = new Map<string, HTTPMethods[]>()
  let adding = true
  app.addHook('onRoute', ({ url, method }) => {
    if (adding) known.set(url, [...(known.get(url) ?? []), ...([method].flat() as HTTPMethods[])])
  })
  addRoutes()
  adding = false
  for (const [url, methods] of known) {
    app.route({
      url,
      method: METHODS.filter((method) => !methods.includes(method)),
      // Before the body is read: it will not be used.
      onRequest: (request, reply, done) => {
        void reply.header('allow', methods.join(', '))
        done(new HeadraceError('method_not_allowed', `${url} does not take ${request.method}`))
      },
      handler: () => undefined,
    })
  }
  return known
}
