// @peculiar/x509 needs the metadata polyfill before it is loaded.
import 'reflect-metadata'
import { createPrivateKey, webcrypto, X509Certificate } from 'node:crypto'
import type { ConnectionOptions } from 'node:tls'
import { connect, type TLSSocket } from 'node:tls'
import { Pkcs10CertificateRequestGenerator } from '@peculiar/x509'
import type { z } from 'zod'
import { asHeadraceError, HeadraceError } from '../../shared/errors.ts'
import { safeParse } from '../../shared/safe-parse.ts'
import { askOver, bodyOf, jsonOf, toldError } from '../../shared/security/exchange.ts'
import { certifiedOf, clusterOf, keyHash } from '../../shared/security/identity.ts'
import {
  JOIN_PATH,
  joinAnswerSchema,
  type joinRequestSchema,
  MOST_JOIN_BYTES,
  RENEW_PATH,
} from '../../shared/security/join-messages.ts'
import { parseToken } from '../../shared/security/join-token.ts'
import type { Credentials, Membership } from '../../shared/security/membership.ts'
import { refusalOf } from '../../shared/security/refusal.ts'

/** How a worker gets its certificate. Its key is made here and never leaves. */

const P256 = { name: 'ECDSA', namedCurve: 'P-256', hash: 'SHA-256' } as const
const MOST_CHAIN = 4
/** For a whole answer: a coordinator that has begun one and does not go on is none. */
const ANSWER_SECONDS = 30

export interface Enrolled {
  /** The authority's certificate, PEM. */
  readonly authority: string
  readonly own: Credentials
}

/**
 * Exchanges a token for a certificate. On a first connection nothing is sent: it only shows whether the coordinator has a
 * certificate with the key that the token pins. That certificate is then all that the second one trusts, and OpenSSL checks
 * the chain before the token goes out.
 *
 * @param base `https://host:port` of the coordinator
 * @throws `token_refused`, `certificate_refused`, `join_throttled`, `name_taken`, `dial_failed`
 */
export async function enrol(
  base: string,
  of: { token: string; name?: string | undefined; answerSeconds?: number },
  signal: AbortSignal,
): Promise<Enrolled> {
  const { authority: pin } = parseToken(of.token)
  const authority = await pinnedAuthority(base, pin, signal)
  const { key, request } = await newRequest()
  const trust: ConnectionOptions = {
    ca: authority,
    minVersion: 'TLSv1.3',
    checkServerIdentity: (_host, { raw }) => {
      const { role, cluster } = certifiedOf(new X509Certificate(raw))
      if (role === 'coordinator' && cluster === clusterOf(pin)) return undefined
      return new HeadraceError('certificate_refused', `${base} is not the coordinator of this cluster`)
    },
  }
  const { token, name, answerSeconds } = of
  const certificate = await ask(`${base}${JOIN_PATH}`, trust, { token, name, request }, signal, answerSeconds)
  return { authority, own: checked({ certificate, key }, authority) }
}

/** A new certificate for a new key, for who has one that is still good. */
export async function renewOwn(
  base: string,
  authority: string,
  membership: Membership,
  signal: AbortSignal,
): Promise<Credentials> {
  const { key, request } = await newRequest()
  const certificate = await ask(`${base}${RENEW_PATH}`, membership.clientOptions('coordinator'), { request }, signal)
  return checked({ certificate, key }, authority)
}

type JoinRequest = Partial<z.infer<typeof joinRequestSchema>>

async function ask(
  url: string,
  tls: ConnectionOptions,
  body: JoinRequest,
  signal: AbortSignal,
  answerSeconds = ANSWER_SECONDS,
): Promise<string> {
  const headers = { 'content-type': 'application/json' }
  const given = AbortSignal.any([signal, AbortSignal.timeout(answerSeconds * 1000)])
  const asking = { method: 'POST', headers, body: JSON.stringify(body), signal: given } as const
  const { status, text } = await askOver(url, tls, asking)
    .then(async (answer) => ({ status: answer.statusCode, text: await bodyOf(answer, MOST_JOIN_BYTES) }))
    .catch(unreachable(url))
  const parsed = safeParse(joinAnswerSchema, jsonOf(text))
  if (status === 200 && parsed.success) return parsed.data.certificate
  throw (
    toldError(text) ??
    new HeadraceError('dial_failed', `${url} answered ${status}: it is no coordinator with a cluster authority`)
  )
}

/** Shakes hands and looks at the certificates. */
async function pinnedAuthority(base: string, pin: string, signal: AbortSignal): Promise<string> {
  const { hostname, port } = new URL(base)
  const host = hostname.replaceAll(/[[\]]/g, '')
  const socket = await new Promise<TLSSocket>((resolve, reject) => {
    // Nothing is trusted here, and nothing is said: what is found is only compared with the pin.
    const dialled = connect({ host, port: Number(port) || 443, rejectUnauthorized: false, minVersion: 'TLSv1.3' })
    const stop = (): void => void dialled.destroy(new Error('stopped'))
    signal.addEventListener('abort', stop, { once: true })
    dialled.setTimeout(10_000, () => dialled.destroy(new Error('no answer within 10 s')))
    dialled.once('close', () => signal.removeEventListener('abort', stop))
    dialled.once('secureConnect', () => resolve(dialled))
    dialled.on('error', reject)
  }).catch(unreachable(base))
  try {
    let certificate = socket.getPeerX509Certificate()
    for (let length = 0; certificate !== undefined && length < MOST_CHAIN; length++) {
      if (keyHash(certificate.publicKey) === pin) return certificate.toString()
      certificate = certificate.issuerCertificate
    }
  } catch (thrown) {
    throw asHeadraceError(thrown, 'certificate_refused') // a key that nobody can read
  } finally {
    socket.destroy()
  }
  throw new HeadraceError(
    'certificate_refused',
    `${base} is not of the cluster that the join token is for: nothing was sent`,
  )
}

const unreachable =
  (url: string) =>
  (thrown: unknown): never => {
    if (thrown instanceof HeadraceError) throw thrown
    const why = thrown instanceof Error ? thrown.message : String(thrown)
    throw refusalOf(thrown, url) ?? new HeadraceError('dial_failed', `cannot reach ${url}: ${why}`, { cause: thrown })
  }

async function newRequest(): Promise<{ key: string; request: string }> {
  const keys = await webcrypto.subtle.generateKey(P256, true, ['sign', 'verify'])
  const request = await Pkcs10CertificateRequestGenerator.create({ keys, signingAlgorithm: P256 })
  const der = Buffer.from(await webcrypto.subtle.exportKey('pkcs8', keys.privateKey))
  return { key: pem('PRIVATE KEY', der), request: request.toString('pem') }
}

const pem = (what: string, der: Buffer): string =>
  `-----BEGIN ${what}-----\n${der.toString('base64').replaceAll(/.{64}/g, '$&\n')}\n-----END ${what}-----\n`

/**
 * What came must be of the authority, for the key that was made here, and name a member: it is about to be kept.
 * @throws `certificate_refused`
 */
function checked(own: Credentials, authority: string): Credentials {
  try {
    const [certificate, issuer] = [new X509Certificate(own.certificate), new X509Certificate(authority)]
    const { role, cluster } = certifiedOf(certificate)
    const named = role !== 'coordinator' && cluster === clusterOf(keyHash(issuer.publicKey))
    if (named && certificate.verify(issuer.publicKey) && certificate.checkPrivateKey(createPrivateKey(own.key)))
      return own
  } catch (thrown) {
    throw asHeadraceError(thrown, 'certificate_refused')
  }
  throw new HeadraceError('certificate_refused', 'the coordinator’s certificate is not for the key of this worker')
}
