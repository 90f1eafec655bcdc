import type { TLSSocket } from 'node:tls'
import type { FastifyInstance } from 'fastify'
import {
  JOIN_PATH,
  joinRequestSchema,
  MOST_JOIN_BYTES,
  RENEW_PATH,
  renewRequestSchema,
} from '../../shared/security/join-messages.ts'
import type { Authority } from '../security/authority.ts'
import { parseWith } from './errors.ts'

/** How machines become members: a token buys the first certificate, a certificate the next. TLS alone has these routes. */
export function joinRoutes(app: FastifyInstance, authority: Authority): void {
  const bodyLimit = MOST_JOIN_BYTES

  app.post(JOIN_PATH, { bodyLimit }, async (request) => {
    const asked = parseWith(joinRequestSchema, request.body)
    return { certificate: await authority.join(request.socket.remoteAddress ?? 'unknown', asked) }
  })

  app.post(RENEW_PATH, { bodyLimit }, async (request) => {
    const member = authority.membership.peerOf(request.raw.socket as TLSSocket)
    const asked = parseWith(renewRequestSchema, request.body)
    return { certificate: await authority.renew(member, asked.request) }
  })
}
