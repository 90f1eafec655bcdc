import { createHash, randomBytes, timingSafeEqual } from 'node:crypto'

/**
 * API keys: `hr-ID-SECRET`, 256 random bits behind a public name. What is kept is the SHA-256 of the secret; a slow hash
 * would protect secrets that people choose, and nobody guesses one of these.
 */

const SECRET_BYTES = 32
const ID_BYTES = 4
const FORM = /^hr-([0-9a-f]{8})-([\w-]{43})$/

/** What may be told of a key: in lists, in the log. */
export type KeyId = string

export interface NewKey {
  readonly id: KeyId
  /** Shown once, kept nowhere. */
  readonly key: string
  /** Hexadecimal. */
  readonly sha256: string
}

export function createKey(): NewKey {
  const id = randomBytes(ID_BYTES).toString('hex')
  const secret = randomBytes(SECRET_BYTES).toString('base64url')
  return { id, key: `hr-${id}-${secret}`, sha256: hashOf(secret).toString('hex') }
}

/** The two parts of what a client presents; nothing if it has not the form of a key. */
export function splitKey(presented: string): { readonly id: KeyId; readonly secret: string } | undefined {
  const [, id, secret] = FORM.exec(presented) ?? []
  return id === undefined || secret === undefined ? undefined : { id, secret }
}

/** In constant time: how long it takes says nothing of how much of the secret was right. */
export const isSecret = (secret: string, sha256: string): boolean =>
  timingSafeEqual(hashOf(secret), Buffer.from(sha256, 'hex'))

const hashOf = (secret: string): Buffer => createHash('sha256').update(secret).digest()
