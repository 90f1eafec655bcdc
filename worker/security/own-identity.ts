import { X509Certificate } from 'node:crypto'
import { join } from 'node:path'
import { z } from 'zod'
import type { Clock } from '../../shared/clock.ts'
import { asHeadraceError, HeadraceError } from '../../shared/errors.ts'
import type { Log } from '../../shared/log.ts'
import type { Role } from '../../shared/protocol/control.ts'
import { type Certified, certifiedOf } from '../../shared/security/identity.ts'
import { Membership } from '../../shared/security/membership.ts'
import { makePrivateFolder, readPrivate, writePrivate } from '../../shared/security/private-file.ts'
import { type Enrolled, enrol, renewOwn } from './enrol.ts'

/** One file, so that key and certificate are always of each other. */
const stateSchema = z.strictObject({
  authority: z.string(),
  own: z.strictObject({ certificate: z.string(), key: z.string() }),
})

const RENEW_AFTER = 2 / 3
const RETRY_SECONDS = 60

export interface OwnIdentityOptions {
  /** Where the worker keeps its key. */
  readonly folder: string
  /** `https://host:port` of the coordinator. */
  readonly base: string
  /** Needed once; later starts find the certificate. */
  readonly token: string | undefined
  /** A wish, unless the token names somebody. */
  readonly name: string | undefined
  readonly clock: Clock
  /** Seconds since 1970. */
  readonly today: () => number
  readonly log: Log
}

/** Who this worker is in a cluster with certificates: found on disk, or bought with a token; renewed while it lives. */
export class OwnIdentity {
  readonly membership: Membership
  readonly #of: OwnIdentityOptions
  #enrolled: Enrolled

  private constructor(of: OwnIdentityOptions, enrolled: Enrolled) {
    this.#of = of
    this.#enrolled = enrolled
    this.membership = new Membership(enrolled.authority, enrolled.own, of)
  }

  /** @throws `token_refused`, `certificate_refused`, `state_failed`, `dial_failed` and what the coordinator refuses with */
  static async open(of: OwnIdentityOptions, signal: AbortSignal): Promise<OwnIdentity> {
    const known = await readPrivate(pathIn(of.folder), stateSchema)
    const alive = known !== undefined && certifiedOf(new X509Certificate(known.own.certificate)).expiresAt > of.today()
    if (alive) return new OwnIdentity(of, known)
    if (of.token === undefined)
      throw new HeadraceError(
        'token_refused',
        known === undefined
          ? `${of.folder} holds no identity yet: a join token is needed (--token)`
          : `the certificate in ${of.folder} has ended: a new join token is needed (--token)`,
      )
    await makePrivateFolder(of.folder)
    const identity = new OwnIdentity(of, await enrol(of.base, { token: of.token, name: of.name }, signal))
    await identity.#save()
    const { name, role } = identity.certified
    of.log.info({ worker: name, role, state: of.folder }, 'joined the cluster')
    return identity
  }

  get certified(): Certified {
    return certifiedOf(new X509Certificate(this.#enrolled.own.certificate))
  }

  get role(): Role {
    const { role, name } = this.certified
    if (role !== 'coordinator') return role
    throw new HeadraceError('certificate_refused', `the certificate of ${name} is not a worker's`)
  }

  /**
   * Renews the certificate whenever two thirds of its life are over, until aborted; tries again while it lasts.
   * @throws `identity_revoked`
   */
  async keep(onRenewed: () => void, signal: AbortSignal): Promise<void> {
    const { clock, today, log } = this.#of
    while (!signal.aborted) {
      const { issuedAt, expiresAt } = this.certified
      const due = issuedAt + (expiresAt - issuedAt) * RENEW_AFTER - today()
      await clock.sleep(Math.max(due, 0), signal).catch(() => undefined) // the loop's condition ends it
      if (signal.aborted) return
      try {
        await this.#renew(signal)
        onRenewed()
      } catch (thrown) {
        const error = asHeadraceError(thrown, 'dial_failed')
        if (error.code === 'identity_revoked') throw error
        log.warn({ code: error.code }, `the certificate was not renewed: ${error.message}`)
        await clock.sleep(RETRY_SECONDS, signal).catch(() => undefined) // the loop's condition ends it
      }
    }
  }

  async #renew(signal: AbortSignal): Promise<void> {
    const { authority } = this.#enrolled
    const own = await renewOwn(this.#of.base, authority, this.membership, signal)
    this.#enrolled = { authority, own }
    await this.#save()
    this.membership.show(own)
    this.#of.log.info({ until: new Date(this.certified.expiresAt * 1000).toISOString() }, 'certificate renewed')
  }

  #save(): Promise<void> {
    return writePrivate(pathIn(this.#of.folder), JSON.stringify(this.#enrolled))
  }
}

const pathIn = (folder: string): string => join(folder, 'identity.json')
