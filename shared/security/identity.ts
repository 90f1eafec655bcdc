import { createHash, type KeyObject, type X509Certificate } from 'node:crypto'
import { HeadraceError } from '../errors.ts'

/** Who somebody is, as the cluster's authority wrote it into the certificate: `spiffe://<cluster>/<role>/<name>`. */
export interface Identity {
  /** The beginning of the authority's key hash: nobody else's authority can have it. */
  readonly cluster: string
  readonly role: IdentityRole
  readonly name: string
}

const IDENTITY_ROLES = ['coordinator', 'prefill', 'decode'] as const
type IdentityRole = (typeof IDENTITY_ROLES)[number]

/** An identity with what the certificate says beside it. Times in seconds since 1970. */
export interface Certified extends Identity {
  /** SHA-256 of the public key. */
  readonly key: string
  readonly issuedAt: number
  readonly expiresAt: number
}

/** Certificates begin so long before they are issued, so that clocks need not agree to the second. */
export const BACKDATE_SECONDS = 300

/** Names go into certificates, file names and logs. */
const NAME = '[A-Za-z0-9][A-Za-z0-9._-]{0,63}'
export const isName = (text: string): boolean => new RegExp(`^${NAME}$`).test(text)

export const uriOf = ({ cluster, role, name }: Identity): string => `spiffe://${cluster}/${role}/${name}`

/** SHA-256 of a public key, as tokens and deny lists have it: 64 hexadecimal digits. */
export const keyHash = (key: KeyObject): string =>
  createHash('sha256')
    .update(key.export({ type: 'spki', format: 'der' }))
    .digest('hex')

/** The cluster that the authority with this key hash stands for. */
export const clusterOf = (authorityKeyHash: string): string => authorityKeyHash.slice(0, 32)

const SUBJECT = new RegExp(
  `^URI:spiffe://([0-9a-f]{32})/(${IDENTITY_ROLES.join('|')})/(${NAME})(?:, (?:DNS|IP Address):[^ ,"]+)*$`,
)

/**
 * Reads a certificate that has been verified against the authority.
 * @throws `certificate_refused` if it is none of a Headrace cluster
 */
export function certifiedOf(certificate: X509Certificate): Certified {
  const found = SUBJECT.exec(certificate.subjectAltName ?? '')
  if (found === null)
    throw new HeadraceError('certificate_refused', 'the certificate names nobody of a Headrace cluster')
  const [, cluster = '', role, name = ''] = found
  return {
    cluster,
    role: role as IdentityRole,
    name,
    key: keyHash(certificate.publicKey),
    issuedAt: Date.parse(certificate.validFrom) / 1000 + BACKDATE_SECONDS,
    expiresAt: Date.parse(certificate.validTo) / 1000,
  }
}
