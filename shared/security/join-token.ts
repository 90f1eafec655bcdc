import { createHash, randomBytes, timingSafeEqual } from 'node:crypto'
import { HeadraceError } from '../errors.ts'

/** What lets a machine into a cluster once: `v1.<SHA-256 of the authority's public key>.<id>.<secret>`. */
export interface JoinToken {
  /** Whom the joiner may tell the secret: nobody but the holder of this key. */
  readonly authority: string
  readonly id: string
  readonly secret: string
}

export function newToken(authority: string): JoinToken {
  return { authority, id: randomBytes(4).toString('hex'), secret: randomBytes(16).toString('base64url') }
}

export const tokenText = ({ authority, id, secret }: JoinToken): string => `v1.${authority}.${id}.${secret}`

/** @throws `token_refused` if it is none */
export function parseToken(text: string): JoinToken {
  const found = /^v1\.([0-9a-f]{64})\.([0-9a-f]{8})\.([A-Za-z0-9_-]{22})$/.exec(text.trim())
  if (found === null) throw new HeadraceError('token_refused', 'the join token is not of the form v1.HASH.ID.SECRET')
  const [, authority = '', id = '', secret = ''] = found
  return { authority, id, secret }
}

/** All that is kept of a secret. It has 128 random bits, so a plain hash is enough. */
export const secretHash = (secret: string): string => createHash('sha256').update(secret).digest('hex')

export const isSecretOf = (secret: string, hash: string): boolean =>
  timingSafeEqual(Buffer.from(secretHash(secret)), Buffer.from(hash))
