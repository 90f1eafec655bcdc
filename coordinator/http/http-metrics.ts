import type { FastifyInstance } from 'fastify'
import { BLOB_PATH } from '../../shared/model-store/serve-blob.ts'
import type { CoordinatorMetrics } from '../metrics.ts'
import type { ServerDeps } from './deps.ts'

/** The route of a request that matched none: a path a client made up is no label. */
const UNMATCHED = 'none'
/** As nginx logs it: nothing was sent, because the client left first. */
const CLIENT_LEFT = '499'

/** Counts every request when its connection is done with it, also those that a client breaks off, and logs one line. */
export function countRequests(app: FastifyInstance, { metrics, clock, log }: ServerDeps): void {
  app.addHook('onRequest', (request, { raw }, done) => {
    const started = clock.now()
    const route = request.routeOptions.url ?? UNMATCHED
    raw.once('close', () => {
      const seconds = clock.now() - started
      const status = raw.writableFinished ? String(raw.statusCode) : CLIENT_LEFT
      metrics.httpRequests.inc({ route, method: request.method, status })
      metrics.httpSeconds.observe({ route }, seconds)
      // A model comes in thousands of pieces.
      const level = route.startsWith(BLOB_PATH) ? 'debug' : 'info'
      log[level]({ route, method: request.method, status, seconds }, 'request')
    })
    done()
  })
}

/** Every route's series from the start: a missing one means a fault. */
export function zeroRequests(metrics: CoordinatorMetrics, routes: ReadonlyMap<string, readonly string[]>): void {
  for (const [route, methods] of [...routes, [UNMATCHED, []] as const]) {
    metrics.httpSeconds.zero({ route })
    for (const method of methods) metrics.httpRequests.inc({ route, method, status: '200' }, 0)
  }
}
