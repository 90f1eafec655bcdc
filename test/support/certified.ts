import { createPublicKey, generateKeyPairSync, X509Certificate } from 'node:crypto'
import { join } from 'node:path'
import { Authority } from '../../coordinator/security/authority.ts'
import { type ClusterFolder, initCluster } from '../../coordinator/security/cluster-folder.ts'
import { Issuer } from '../../coordinator/security/x509.ts'
import type { Clock } from '../../shared/clock.ts'
import { realClock } from '../../shared/link/real-clock.ts'
import { createLog } from '../../shared/log.ts'
import { type Certified, certifiedOf, type Identity } from '../../shared/security/identity.ts'
import { newToken, secretHash, tokenText } from '../../shared/security/join-token.ts'
import { type Credentials, Membership } from '../../shared/security/membership.ts'
import { temporaryFolder } from './temporary.ts'

/** Clusters with certificates, in a folder that `await using` removes. */

export const today = (): number => Date.now() / 1000
const log = createLog('test', 'silent')

export interface CertifiedCluster extends AsyncDisposable {
  readonly folder: ClusterFolder
  readonly issuer: Issuer
  authority(of?: { clock?: Clock; today?: () => number; lifeSeconds?: number }): Promise<Authority>
  /** The text of a new token. */
  token(of?: Partial<Parameters<ClusterFolder['tokens']['add']>[0]>): Promise<string>
  credentials(of?: Partial<Identity>, from?: Date, seconds?: number): Promise<Credentials>
  /** A member of the cluster by this name. */
  member(of?: Partial<Identity>, time?: { clock?: Clock; today?: () => number }): Promise<Membership>
}

export async function certifiedCluster(): Promise<CertifiedCluster> {
  const temporary = await temporaryFolder()
  const folder = await initCluster(join(temporary.path, 'cluster'), new Date())
  const issuer = await Issuer.open(folder.authority)
  const { cluster, authorityKey, tokens, authority } = folder
  const credentials: CertifiedCluster['credentials'] = async (of = {}, from = new Date(), seconds = 3600) => {
    const { privateKey } = generateKeyPairSync('ec', { namedCurve: 'P-256' })
    const identity = { cluster, role: 'prefill', name: 'w1', ...of } as const
    const life = { from, seconds }
    return {
      certificate: await issuer.issue(identity, createPublicKey(privateKey), life),
      key: privateKey.export({ type: 'pkcs8', format: 'pem' }).toString(),
    }
  }
  return {
    [Symbol.asyncDispose]: () => temporary[Symbol.asyncDispose](),
    folder,
    issuer,
    authority: (of = {}) =>
      Authority.open({ folder, lifeSeconds: 3600, hosts: ['127.0.0.1'], clock: realClock, today, log, ...of }),
    token: async (of = {}) => {
      const token = newToken(authorityKey)
      const { id, secret } = token
      const record = { id, hash: secretHash(secret), role: 'prefill', uses: 1 } as const
      await tokens.add({ ...record, createdAt: today(), expiresAt: today() + 60, ...of })
      return tokenText(token)
    },
    credentials,
    member: async (of = {}, time = {}) =>
      new Membership(authority.certificate, await credentials(of), { clock: realClock, today, ...time }),
  }
}

export const certifiedIn = ({ certificate }: Pick<Credentials, 'certificate'>): Certified =>
  certifiedOf(new X509Certificate(certificate))
