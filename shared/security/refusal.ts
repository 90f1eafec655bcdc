import { HeadraceError } from '../errors.ts'

/** What OpenSSL says of a certificate or of ours, for people. */
const COMPLAINTS: Readonly<Record<string, string>> = {
  CERT_HAS_EXPIRED: 'the certificate has ended; or the clocks of the two machines differ',
  CERT_NOT_YET_VALID: 'the certificate begins later; the clocks of the two machines differ by more than five minutes',
  UNABLE_TO_GET_ISSUER_CERT: 'the certificate is of another cluster',
  UNABLE_TO_GET_ISSUER_CERT_LOCALLY: 'the certificate is of another cluster',
  UNABLE_TO_VERIFY_LEAF_SIGNATURE: 'the certificate is of another cluster',
  SELF_SIGNED_CERT_IN_CHAIN: 'the certificate is of another cluster',
  DEPTH_ZERO_SELF_SIGNED_CERT: 'the certificate is of nobody’s authority',
  CERT_SIGNATURE_FAILURE: 'the certificate is forged',
  INVALID_PURPOSE: 'the certificate is not for this',
}

/** The coded error of a TLS handshake that failed over a certificate; `undefined` if it failed over anything else. */
export function refusalOf(thrown: unknown, url: string): HeadraceError | undefined {
  if (!(thrown instanceof Error) || !('code' in thrown)) return undefined
  const complaint = COMPLAINTS[String(thrown.code)]
  return complaint === undefined
    ? undefined
    : new HeadraceError('certificate_refused', `${url}: ${complaint}`, { cause: thrown })
}
