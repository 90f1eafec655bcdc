import type { FastifyInstance, FastifyRequest } from 'fastify'
import type { Clock } from '../../shared/clock.ts'
import { ERRORS, HeadraceError } from '../../shared/errors.ts'
import { isLoopback } from '../../shared/link/connection-cap.ts'
import { JOIN_PATH, RENEW_PATH } from '../../shared/security/join-messages.ts'
import { Account } from '../keys/account.ts'
import type { KeyRing } from '../keys/key-ring.ts'
import { Strangers } from '../keys/strangers.ts'

/** Who may ask for what: decided by the route and the request's head, before a byte of the body is read. */

/** Whom routes that tell no secrets answer: anybody, this machine alone, or who has a key. */
export const ACCESS = ['open', 'loopback', 'key'] as const
export type Access = (typeof ACCESS)[number]

export interface AccessPolicy {
  /** Absent: everybody may ask. */
  readonly keys?: KeyRing
  readonly metrics: Access
  readonly health: Access
  /** Requests a minute that an address may send without a key. This machine's are not counted where there are no keys. */
  readonly strangerRequestsPerMinute: number
}

export const OPEN_ACCESS: AccessPolicy = { metrics: 'open', health: 'open', strangerRequestsPerMinute: 300 }

const HEALTH: ReadonlySet<string> = new Set(['/live', '/health', '/ready'])
const METRICS = '/metrics'
/** The workers', who have no API keys: no key of a client opens the mesh, and none is needed there. */
const MODEL = '/v1/model/'

const ACCOUNT = 'account'

/** Whose request it is. */
export const accountOf = (request: FastifyRequest): Account => request.getDecorator<Account>(ACCOUNT)

export function guardRoutes(app: FastifyInstance, policy: AccessPolicy, clock: Clock): void {
  const nobody = new Account('open', {}, clock)
  const strangers = new Strangers(policy.strangerRequestsPerMinute, clock)
  app.decorateRequest(ACCOUNT)
  app.addHook('onRequest', async (request) => {
    const access = accessOf(request.routeOptions.url ?? '', policy)
    request.setDecorator(ACCOUNT, nobody)
    if (access === 'open') return
    const local = isLoopback(request.socket.remoteAddress)
    if (access === 'loopback') {
      if (local) return
      throw new HeadraceError('access_denied', ERRORS.access_denied.help)
    }
    if (policy.keys === undefined) {
      if (!local) strangers.request(request.socket.remoteAddress ?? '')
      return
    }
    const account = await policy.keys.account(bearerOf(request))
    if (account === undefined) {
      strangers.request(request.socket.remoteAddress ?? '')
      throw new HeadraceError('invalid_api_key', ERRORS.invalid_api_key.help)
    }
    account.request()
    request.setDecorator(ACCOUNT, account)
  })
}

/** A path that matches no route is nobody's: who has no key learns not even that. */
function accessOf(route: string, { metrics, health }: AccessPolicy): Access {
  if (HEALTH.has(route)) return health
  if (route === METRICS) return metrics
  return route.startsWith(MODEL) || route === JOIN_PATH || route === RENEW_PATH ? 'open' : 'key'
}

const BEARER = /^bearer +(\S+)$/i

const bearerOf = ({ headers }: FastifyRequest): string => BEARER.exec(headers.authorization ?? '')?.[1] ?? ''
