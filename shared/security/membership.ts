import { constants, X509Certificate } from 'node:crypto'
import type { ConnectionOptions, TLSSocket, TlsOptions } from 'node:tls'
import type { Clock } from '../clock.ts'
import { asHeadraceError, HeadraceError } from '../errors.ts'
import { type DenyList, isDenied } from './deny-list.ts'
import { type Certified, certifiedOf, clusterOf, keyHash } from './identity.ts'

/** Whom a dialler wants at the other end: the coordinator, a worker by name, or anybody who belongs to the cluster. */
export type Expected = 'coordinator' | 'member' | { readonly worker: string }

/** What a process shows of itself. PEM. */
export interface Credentials {
  readonly certificate: string
  readonly key: string
}

/** A link as its guard sees it. */
interface Guarded {
  readonly closed: AbortSignal
  close(reason: HeadraceError): void
}

interface Server {
  setSecureContext(options: TlsOptions): void
}

const HANDSHAKE_MS = 10_000

/**
 * One process's place in a cluster: what it shows, whom it lets in, and the live links that must end when their
 * certificates do or when somebody is denied. TLS 1.3 alone, the cluster's authority alone, no session taken up again:
 * a resumed session is taken for authorised even after its certificate has ended.
 */
export class Membership {
  readonly cluster: string
  readonly #authority: string
  readonly #clock: Clock
  /** Seconds since 1970. */
  readonly #today: () => number
  readonly #guarded = new Map<Guarded, { peer: Certified; readonly renewed: AbortController }>()
  readonly #servers = new Set<Server>()
  #own: Credentials
  #denied: DenyList = []

  /** @param authority the authority's certificate, PEM */
  constructor(authority: string, own: Credentials, time: { readonly clock: Clock; readonly today: () => number }) {
    this.#authority = authority
    this.cluster = clusterOf(keyHash(new X509Certificate(authority).publicKey))
    this.#own = own
    this.#clock = time.clock
    this.#today = time.today
  }

  get #shown() {
    // With the authority's certificate behind its own, so that who has only the hash of its key can find it there.
    const cert = `${this.#own.certificate.trim()}\n${this.#authority}`
    return { ca: this.#authority, cert, key: this.#own.key, minVersion: 'TLSv1.3' as const }
  }

  /** Asks everybody for a certificate and refuses nobody yet: each path decides by `peerOf`. */
  get serverOptions(): TlsOptions & { readonly handshakeTimeout: number } {
    const secureOptions = constants.SSL_OP_NO_TICKET
    return {
      ...this.#shown,
      secureOptions,
      requestCert: true,
      rejectUnauthorized: false,
      handshakeTimeout: HANDSHAKE_MS,
    }
  }

  clientOptions(expected: Expected): ConnectionOptions {
    return {
      ...this.#shown,
      rejectUnauthorized: true,
      checkServerIdentity: (_host, { raw }) => {
        try {
          this.#checkServer(this.#check(certifiedOf(new X509Certificate(raw))), expected)
          return undefined
        } catch (thrown) {
          return asHeadraceError(thrown)
        }
      },
    }
  }

  /** From now on the server shows what this process shows. */
  follow(server: Server): void {
    this.#servers.add(server)
  }

  /** A renewed certificate: connections that are made from now on show it. */
  show(own: Credentials): void {
    this.#own = own
    for (const server of this.#servers)
      server.setSecureContext({ ...this.#shown, secureOptions: constants.SSL_OP_NO_TICKET })
  }

  /**
   * The member at the other end of a socket, of either side.
   * @throws `certificate_refused` if there is none, `identity_revoked`
   */
  peerOf(socket: TLSSocket): Certified {
    const certificate = socket.getPeerX509Certificate()
    if (certificate === undefined)
      throw new HeadraceError('certificate_refused', 'a certificate of the cluster is needed')
    if (!socket.authorized)
      throw new HeadraceError('certificate_refused', `the certificate does not hold: ${socket.authorizationError}`)
    return this.#check(certifiedOf(certificate))
  }

  /** Closes the link when the peer's certificate ends, or as soon as the peer is denied. */
  guard(link: Guarded, peer: Certified): void {
    const entry = { peer, renewed: new AbortController() }
    this.#guarded.set(link, entry)
    const forget = (): void => {
      this.#guarded.delete(link)
      entry.renewed.abort()
    }
    link.closed.addEventListener('abort', forget, { once: true })
    void this.#closeAtEnd(link, entry)
    if (isDenied(this.#denied, peer)) link.close(revoked(peer))
  }

  /**
   * The same for a link that was dialled. The coordinator's own certificate is looked at when it is dialled and no more:
   * it renews that by itself, and whoever can make one is the cluster.
   */
  guardDialled(link: Guarded, peer: Certified): void {
    if (peer.role !== 'coordinator') this.guard(link, peer)
  }

  /** The peer of these links has a new certificate of the same name, which this process has issued itself. */
  extend(renewed: Certified): void {
    for (const entry of this.#guarded.values())
      if (entry.peer.name === renewed.name && entry.peer.role === renewed.role) entry.peer = renewed
  }

  /** Takes the place of the earlier list; the links of those on it are closed at once. */
  deny(list: DenyList): void {
    this.#denied = list
    for (const [link, { peer }] of [...this.#guarded]) if (isDenied(list, peer)) link.close(revoked(peer))
  }

  get denied(): DenyList {
    return this.#denied
  }

  async #closeAtEnd(link: Guarded, entry: { peer: Certified; readonly renewed: AbortController }): Promise<void> {
    for (;;) {
      const left = entry.peer.expiresAt - this.#today()
      if (left <= 0) break
      try {
        await this.#clock.sleep(left, entry.renewed.signal)
      } catch {
        return // the link has closed before
      }
    }
    link.close(new HeadraceError('certificate_refused', `the certificate of ${entry.peer.name} has ended`))
  }

  #check(peer: Certified): Certified {
    if (peer.cluster !== this.cluster)
      throw new HeadraceError('certificate_refused', `${peer.name} belongs to another cluster`)
    if (isDenied(this.#denied, peer)) throw revoked(peer)
    return peer
  }

  #checkServer({ role, name }: Certified, expected: Expected): void {
    if (expected === 'member') return
    const good =
      expected === 'coordinator' ? role === 'coordinator' : role !== 'coordinator' && name === expected.worker
    if (good) return
    const wanted = expected === 'coordinator' ? 'the coordinator' : expected.worker
    throw new HeadraceError('certificate_refused', `${role} ${name} answers where ${wanted} should`)
  }
}

const revoked = ({ name }: Certified): HeadraceError =>
  new HeadraceError('identity_revoked', `the identity of ${name} has been revoked`)
