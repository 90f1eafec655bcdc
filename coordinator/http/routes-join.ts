import type { TLSSocket } from 'node:tls'
import type { FastifyInstance } from 'fastify'
import {
  JOIN_PATH,
  joinRequestSchema,
  MOST_JOIN_BYTES,
  RENEW_PATH,
  renewRequestSchema,
} from '../../shared/security/join-messages.ts'
import type { CoordinatorMetrics } from '../metrics.ts'
import type { Authority } from '../security/authority.ts'
import { httpError, parseWith } from './errors.ts'

/** How machines become members: a token buys the first certificate, a certificate the next. TLS alone has these routes. */
export function joinRoutes(app: FastifyInstance, authority: Authority, { joinsRefused }: CoordinatorMetrics): void {
  const bodyLimit = MOST_JOIN_BYTES
  const onError = async (_request: unknown, _reply: unknown, error: Error): Promise<void> => {
    joinsRefused.inc({ code: httpError(error).code })
  }

  app.post(JOIN_PATH, { bodyLimit, onError }, async (request) => {
    const asked = parseWith(joinRequestSchema, request.body)
    return { certificate: await authority.join(request.socket.remoteAddress ?? 'unknown', asked) }
  })

  app.post(RENEW_PATH, { bodyLimit, onError }, async (request) => {
    const member = authority.membership.peerOf(request.raw.socket as TLSSocket)
    const asked = parseWith(renewRequestSchema, request.body)
    return { certificate: await authority.renew(member, asked.request) }
  })
}
