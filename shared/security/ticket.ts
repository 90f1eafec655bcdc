import { createPrivateKey, createPublicKey, generateKeyPairSync, type KeyObject, sign, verify } from 'node:crypto'
import { HeadraceError } from '../errors.ts'

/**
 * What the coordinator gives a worker with an assignment, so that another one hands it KV: good for one run, one pair of
 * workers, one purpose, and a minute. On the wire it is no more than its end and an Ed25519 signature (RFC 8032): all
 * else is known to the one that checks it, so nothing of it is ever taken from who shows it.
 */

export const TICKET_SECONDS = 60
export const MOST_TICKET_LENGTH = 128

export interface TicketClaim {
  readonly cluster: string
  /** As on the wire. */
  readonly run: string
  /** Who serves. */
  readonly source: string
  /** Of the source's membership. */
  readonly epoch: number
  /** Who dials. */
  readonly target: string
  readonly purpose: 'prefix' | 'handoff' | 'cached'
}

/** Seconds on the coordinator's own monotonic clock: machines need not agree on the time of day. */
export function signTicket(claim: TicketClaim, expires: number, key: KeyObject): string {
  return `${expires.toFixed(3)}.${sign(null, signedBytes(claim, expires.toFixed(3)), key).toString('base64url')}`
}

/** @throws `ticket_refused` unless the ticket is for just this and has not ended */
export function checkTicket(ticket: string, claim: TicketClaim, now: number, key: KeyObject): void {
  const refuse = (why: string): HeadraceError =>
    new HeadraceError('ticket_refused', `${claim.target} shows a ticket for run ${claim.run} that ${why}`)
  const found = /^(\d{1,15}\.\d{3})\.([A-Za-z0-9_-]{86})$/.exec(ticket)
  if (found === null) throw refuse('is none')
  const [, expires = '', signature = ''] = found
  if (!verify(null, signedBytes(claim, expires), key, Buffer.from(signature, 'base64url')))
    throw refuse('is not the coordinator’s for this run, these workers and this purpose')
  if (Number(expires) < now) throw refuse('has ended')
}

/** JSON, because no text that a name may hold can make two claims look alike in it. */
const signedBytes = ({ cluster, run, source, epoch, target, purpose }: TicketClaim, expires: string): Buffer =>
  Buffer.from(JSON.stringify(['headrace ticket 1', cluster, run, source, epoch, target, purpose, expires]))

/**
 * A signing key for the life of a coordinator process, and its public half as workers are told it.
 *
 * The pair is made as bytes and read again: Node 20 locks a key while it makes a JWK of it, and locks it again when what
 * generated it is collected. Garbage collection in the midst of the JWK, one time in 20,000, then stops the process.
 */
export function newTicketKey(): { key: KeyObject; told: string } {
  const made = generateKeyPairSync('ed25519', {
    privateKeyEncoding: { type: 'pkcs8', format: 'der' },
    publicKeyEncoding: { type: 'spki', format: 'der' },
  })
  const publicKey = createPublicKey({ key: made.publicKey, type: 'spki', format: 'der' })
  return {
    key: createPrivateKey({ key: made.privateKey, type: 'pkcs8', format: 'der' }),
    told: publicKey.export({ format: 'jwk' }).x!,
  }
}

/** @throws `frame_bad_schema` if it is no key */
export function ticketKeyOf(told: string): KeyObject {
  try {
    return createPublicKey({ key: { kty: 'OKP', crv: 'Ed25519', x: told }, format: 'jwk' })
  } catch (cause) {
    throw new HeadraceError('frame_bad_schema', 'the coordinator’s ticket key is none', { cause })
  }
}
