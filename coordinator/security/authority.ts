import { generateKeyPairSync, type KeyObject, randomBytes, X509Certificate } from 'node:crypto'
import { hostname, networkInterfaces } from 'node:os'
import type { Clock } from '../../shared/clock.ts'
import { asHeadraceError, HeadraceError } from '../../shared/errors.ts'
import { realClock } from '../../shared/link/real-clock.ts'
import type { Log } from '../../shared/log.ts'
import type { Role } from '../../shared/protocol/control.ts'
import { type DenyList, isDenied } from '../../shared/security/deny-list.ts'
import { type Certified, certifiedOf } from '../../shared/security/identity.ts'
import { parseToken } from '../../shared/security/join-token.ts'
import { type Credentials, Membership } from '../../shared/security/membership.ts'
import { type ClusterFolder, openCluster } from './cluster-folder.ts'
import { FailureLimit } from './failure-limit.ts'
import { checkToken, type TokenRecord } from './token-rules.ts'
import { Issuer, keyOfRequest } from './x509.ts'

export interface AuthorityOptions {
  readonly folder: ClusterFolder
  /** Life of every certificate, the coordinator's own included. */
  readonly lifeSeconds: number
  /** Names and addresses under which HTTP clients reach the coordinator. */
  readonly hosts: readonly string[]
  readonly clock: Clock
  /** Seconds since 1970. */
  readonly today: () => number
  readonly log: Log
}

/** What part of a certificate's life passes before it is renewed. */
const RENEW_AFTER = 2 / 3

/**
 * The coordinator as the cluster's authority: lets joiners in, renews members, denies those who are revoked, and keeps its
 * own certificate fresh. That one never touches the disk: with the authority's key at hand it would only be one more secret.
 */
export class Authority {
  readonly membership: Membership
  readonly #of: AuthorityOptions
  readonly #issuer: Issuer
  readonly #failures = new FailureLimit()
  /** Certificates are issued one after the other, so that no name is given away twice. */
  #turn: Promise<unknown> = Promise.resolve()
  #onDenied: (list: DenyList) => void = () => undefined

  private constructor(of: AuthorityOptions, issuer: Issuer, own: Credentials) {
    this.#of = of
    this.#issuer = issuer
    this.membership = new Membership(of.folder.authority.certificate, own, of)
  }

  static async open(of: AuthorityOptions): Promise<Authority> {
    const issuer = await Issuer.open(of.folder.authority)
    const authority = new Authority(of, issuer, await ownCredentials(of, issuer))
    authority.membership.deny(await of.folder.denied.list())
    return authority
  }

  /**
   * A certificate for who brings a token. The use of the token is on disk before anything is signed.
   * @throws `token_refused`, `join_throttled`, `name_taken`, `invalid_request`
   */
  async join(from: string, asked: { token: string; request: string; name?: string | undefined }): Promise<string> {
    const { clock, log } = this.#of
    const wait = this.#failures.waitSeconds(from, clock.now())
    if (wait > 0)
      throw new HeadraceError('join_throttled', `too many failed joins from ${from}`, {
        details: { retryAfterSeconds: wait },
      })
    try {
      const { pem, certified } = await this.#inTurn(() => this.#admit(asked))
      log.info(
        { from, token: parseToken(asked.token).id, name: certified.name, role: certified.role },
        'certificate issued',
      )
      return pem
    } catch (thrown) {
      const error = asHeadraceError(thrown)
      if (error.code === 'token_refused' || error.code === 'invalid_request') this.#failures.failed(from, clock.now())
      log.warn({ from, code: error.code }, `a join was refused: ${error.message}`)
      throw error
    }
  }

  /** A new certificate for a member's new key. @throws `identity_revoked`, `invalid_request` */
  renew(member: Certified, request: string): Promise<string> {
    return this.#inTurn(async () => {
      await this.reload()
      if (isDenied(this.membership.denied, member))
        throw new HeadraceError('identity_revoked', `the identity of ${member.name} has been revoked`)
      const { name } = member
      const { pem, certified } = await this.#issue(name, roleOf(member), await keyOfRequest(request))
      this.membership.extend(certified)
      this.#of.log.info({ worker: name }, 'certificate renewed')
      return pem
    })
  }

  /** Until aborted: takes over what is denied meanwhile, and renews the coordinator's own certificate. */
  async keep(onDenied: (list: DenyList) => void, signal: AbortSignal): Promise<void> {
    const { folder, clock, lifeSeconds, log } = this.#of
    this.#onDenied = onDenied
    const reload = (): void => {
      this.reload().catch((error: unknown) =>
        log.error({ err: error }, 'the deny list cannot be read: the old one holds'),
      )
    }
    folder.denied.watch(reload, signal)
    while (!signal.aborted) {
      await clock.sleep(lifeSeconds * RENEW_AFTER, signal).catch(() => undefined) // the loop's condition ends it
      if (!signal.aborted) this.membership.show(await ownCredentials(this.#of, this.#issuer))
    }
  }

  async reload(): Promise<void> {
    const list = await this.#of.folder.denied.list()
    if (JSON.stringify(list) === JSON.stringify(this.membership.denied)) return
    this.membership.deny(list)
    this.#onDenied(list)
  }

  async #admit({ token, request, name }: { token: string; request: string; name?: string | undefined }) {
    const { folder, today } = this.#of
    const { authority, id, secret } = parseToken(token)
    if (authority !== folder.authorityKey)
      throw new HeadraceError('token_refused', 'the join token is of another cluster')
    const record = await folder.tokens.find(id)
    const granted = checkToken(record, secret, { name }, today())
    const key = await keyOfRequest(request)
    await this.reload()
    const free = await this.#freeName(record!, granted.name ?? `${granted.role}-${randomBytes(3).toString('hex')}`)
    await folder.tokens.use(record!, free.name)
    if (free.replaced !== undefined) await folder.denied.add(free.replaced).then(() => this.reload())
    return this.#issue(free.name, granted.role, key)
  }

  /** A name that somebody holds goes only to a token that was made for it; its former holder is then denied. */
  async #freeName(token: TokenRecord, name: string) {
    const { folder, today } = this.#of
    const holder = await folder.identities.find(name)
    const living = holder && holder.expiresAt > today() && !isDenied(this.membership.denied, holder)
    if (!living) return { name }
    if (token.name === undefined)
      throw new HeadraceError(
        'name_taken',
        `${name} is the name of another worker; a token made with --name replaces it`,
      )
    // The new certificate may be of the same second as the old one: that one goes by its key.
    return { name, replaced: { name, key: holder.key, at: Math.max(0, holder.issuedAt - 1), until: holder.expiresAt } }
  }

  async #issue(name: string, role: Role, key: KeyObject) {
    const { folder, lifeSeconds, today } = this.#of
    const life = { from: new Date(today() * 1000), seconds: lifeSeconds }
    const pem = await this.#issuer.issue({ cluster: folder.cluster, role, name }, key, life)
    const certified = certifiedOf(new X509Certificate(pem))
    const { key: hash, issuedAt, expiresAt } = certified
    await folder.identities.put({ name, role, key: hash, issuedAt, expiresAt })
    return { pem, certified }
  }

  #inTurn<T>(work: () => Promise<T>): Promise<T> {
    const mine = this.#turn.then(work)
    this.#turn = mine.catch(() => undefined) // whoever asked hears of it
    return mine
  }
}

async function ownCredentials(
  { folder, lifeSeconds, hosts, today }: AuthorityOptions,
  issuer: Issuer,
): Promise<Credentials> {
  const { privateKey, publicKey } = generateKeyPairSync('ec', { namedCurve: 'P-256' })
  const identity = { cluster: folder.cluster, role: 'coordinator', name: 'coordinator' } as const
  const life = { from: new Date(today() * 1000), seconds: lifeSeconds }
  return {
    certificate: await issuer.issue(identity, publicKey, life, hosts),
    key: privateKey.export({ type: 'pkcs8', format: 'pem' }).toString(),
  }
}

function roleOf({ role, name }: Certified): Role {
  if (role !== 'coordinator') return role
  throw new HeadraceError('certificate_refused', `${name} is no worker`)
}

/** The authority of a coordinator that listens at `host`. */
export async function openAuthority(of: OpenAuthority, host: string, log: Log): Promise<Authority> {
  const hosts = [...new Set([...ownHosts(host), ...of.names])]
  const folder = await openCluster(of.folder)
  const today = (): number => Date.now() / 1000
  return Authority.open({ folder, lifeSeconds: of.certificateSeconds, hosts, clock: realClock, today, log })
}

export interface OpenAuthority {
  readonly folder: string
  readonly certificateSeconds: number
  readonly names: readonly string[]
}

/** What this machine is called, and the addresses it has. */
function ownHosts(host: string): string[] {
  const addresses = Object.values(networkInterfaces()).flatMap((all) => (all ?? []).map(({ address }) => address))
  const listened = /^(0\.0\.0\.0|::)$/.test(host) ? addresses : [host]
  return ['localhost', '127.0.0.1', '::1', hostname(), ...listened.map((address) => address.split('%', 1)[0]!)]
}
