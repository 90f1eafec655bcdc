// @peculiar/x509 needs the metadata polyfill before it is loaded.
import 'reflect-metadata'
import { createPublicKey, type KeyObject, webcrypto } from 'node:crypto'
import { isIP } from 'node:net'
import {
  AuthorityKeyIdentifierExtension,
  BasicConstraintsExtension,
  ExtendedKeyUsage,
  ExtendedKeyUsageExtension,
  type Extension,
  KeyUsageFlags,
  KeyUsagesExtension,
  Pkcs10CertificateRequest,
  SubjectAlternativeNameExtension,
  SubjectKeyIdentifierExtension,
  X509Certificate,
  X509CertificateGenerator,
} from '@peculiar/x509'
import { HeadraceError } from '../../shared/errors.ts'
import { BACKDATE_SECONDS, type Identity, uriOf } from '../../shared/security/identity.ts'

/** Makes certificates; the only file that knows how. Keys are P-256, signatures ECDSA with SHA-256. */

const P256 = { name: 'ECDSA', namedCurve: 'P-256', hash: 'SHA-256' } as const
const AUTHORITY_YEARS = 10

export interface Pair {
  /** PEM. */
  readonly certificate: string
  /** PKCS#8, PEM. */
  readonly key: string
}

/** An authority that may sign members, and no other authorities. */
export async function makeAuthority(now: Date): Promise<Pair> {
  const keys = await webcrypto.subtle.generateKey(P256, true, ['sign', 'verify'])
  const notAfter = new Date(now)
  notAfter.setFullYear(now.getFullYear() + AUTHORITY_YEARS)
  const certificate = await X509CertificateGenerator.createSelfSigned({
    serialNumber: serial(),
    name: 'CN=Headrace cluster authority',
    notBefore: backdated(now),
    notAfter,
    keys,
    signingAlgorithm: P256,
    extensions: [
      new BasicConstraintsExtension(true, 0, true),
      new KeyUsagesExtension(KeyUsageFlags.keyCertSign | KeyUsageFlags.cRLSign, true),
      await SubjectKeyIdentifierExtension.create(keys.publicKey),
    ],
  })
  return { certificate: `${certificate.toString('pem')}\n`, key: await pemOf(keys.privateKey) }
}

/** Signs members' certificates. */
export class Issuer {
  readonly #certificate: X509Certificate
  readonly #key: webcrypto.CryptoKey

  private constructor(certificate: X509Certificate, key: webcrypto.CryptoKey) {
    this.#certificate = certificate
    this.#key = key
  }

  static async open({ certificate, key }: Pair): Promise<Issuer> {
    const der = Buffer.from(key.replaceAll(/-----[^-]+-----|\s/g, ''), 'base64')
    return new Issuer(
      new X509Certificate(certificate),
      await webcrypto.subtle.importKey('pkcs8', der, P256, false, ['sign']),
    )
  }

  /** A certificate for both ends of a link, PEM. `hosts`: names and addresses under which HTTP clients may reach it. */
  async issue(identity: Identity, key: KeyObject, life: Life, hosts: readonly string[] = []): Promise<string> {
    const publicKey = await cryptoKey(key)
    const names = hosts.map((host) => ({ type: isIP(host) ? ('ip' as const) : ('dns' as const), value: host }))
    const extensions: Extension[] = [
      new BasicConstraintsExtension(false, undefined, true),
      new KeyUsagesExtension(KeyUsageFlags.digitalSignature, true),
      new ExtendedKeyUsageExtension([ExtendedKeyUsage.serverAuth, ExtendedKeyUsage.clientAuth]),
      new SubjectAlternativeNameExtension([{ type: 'url', value: uriOf(identity) }, ...names]),
      await SubjectKeyIdentifierExtension.create(publicKey),
      await AuthorityKeyIdentifierExtension.create(this.#certificate),
    ]
    const certificate = await X509CertificateGenerator.create({
      serialNumber: serial(),
      subject: `CN=${identity.name}`,
      issuer: this.#certificate.subject,
      notBefore: backdated(life.from),
      notAfter: new Date(life.from.getTime() + life.seconds * 1000),
      publicKey,
      signingKey: this.#key,
      signingAlgorithm: P256,
      extensions,
    })
    return `${certificate.toString('pem')}\n`
  }
}

export interface Life {
  readonly from: Date
  readonly seconds: number
}

/**
 * The key of a PKCS#10 request whose sender holds its private half; nothing else in it counts.
 * @throws `invalid_request`
 */
export async function keyOfRequest(pem: string): Promise<KeyObject> {
  try {
    const request = new Pkcs10CertificateRequest(pem)
    const key = createPublicKey({ key: Buffer.from(request.publicKey.rawData), format: 'der', type: 'spki' })
    if (key.asymmetricKeyDetails?.namedCurve !== 'prime256v1') throw new Error('its key is not of the curve P-256')
    if (!(await request.verify())) throw new Error('it is not signed with its own key')
    return key
  } catch (cause) {
    const why = cause instanceof Error ? cause.message : String(cause)
    throw new HeadraceError('invalid_request', `the certificate request cannot be used: ${why.slice(0, 200)}`, {
      cause,
      details: { param: 'request' },
    })
  }
}

const backdated = (now: Date): Date => new Date(now.getTime() - BACKDATE_SECONDS * 1000)

/** 127 random bits; positive, as RFC 5280, section 4.1.2.2, wants it. */
function serial(): string {
  const bytes = webcrypto.getRandomValues(new Uint8Array(16))
  bytes[0] = (bytes[0]! & 0x7f) | 0x40
  return Buffer.from(bytes).toString('hex')
}

async function cryptoKey(key: KeyObject): Promise<webcrypto.CryptoKey> {
  return webcrypto.subtle.importKey('spki', key.export({ type: 'spki', format: 'der' }), P256, true, ['verify'])
}

async function pemOf(key: webcrypto.CryptoKey): Promise<string> {
  const der = Buffer.from(await webcrypto.subtle.exportKey('pkcs8', key))
  return `-----BEGIN PRIVATE KEY-----\n${der.toString('base64').replaceAll(/.{64}/g, '$&\n')}\n-----END PRIVATE KEY-----\n`
}
