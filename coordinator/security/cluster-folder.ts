import { createPrivateKey, createPublicKey, X509Certificate } from 'node:crypto'
import { join } from 'node:path'
import { z } from 'zod'
import { HeadraceError } from '../../shared/errors.ts'
import { clusterOf, keyHash } from '../../shared/security/identity.ts'
import { claimPrivate, makePrivateFolder, readPrivate } from '../../shared/security/private-file.ts'
import { DenyStore } from './deny-store.ts'
import { IdentityStore } from './identity-store.ts'
import { TokenStore } from './token-store.ts'
import { makeAuthority, type Pair } from './x509.ts'

const authoritySchema = z.strictObject({ certificate: z.string(), key: z.string() })

/** The state of a cluster on the coordinator's disk. Whoever can read it is the cluster. */
export interface ClusterFolder {
  readonly path: string
  readonly cluster: string
  /** SHA-256 of the authority's public key: what tokens pin. */
  readonly authorityKey: string
  readonly authority: Pair
  readonly tokens: TokenStore
  readonly identities: IdentityStore
  readonly denied: DenyStore
}

const authorityPath = (folder: string): string => join(folder, 'authority.json')

/** For HTTP clients that are to trust the coordinator. */
export const certificatePath = (folder: string): string => join(folder, 'authority.pem')

/** @throws `state_failed` if there is a cluster already */
export async function initCluster(path: string, now: Date): Promise<ClusterFolder> {
  await makePrivateFolder(path)
  const authority = await makeAuthority(now)
  if (!(await claimPrivate(authorityPath(path), JSON.stringify(authority))))
    throw new HeadraceError('state_failed', `${path} is the folder of a cluster already`)
  await claimPrivate(certificatePath(path), authority.certificate)
  await makePrivateFolder(join(path, 'denied'))
  return clusterAt(path, authority)
}

/** @throws `state_failed` */
export async function openCluster(path: string): Promise<ClusterFolder> {
  const authority = await readPrivate(authorityPath(path), authoritySchema)
  if (authority === undefined)
    throw new HeadraceError(
      'state_failed',
      `${path} is no folder of a cluster: \`headrace init --cluster ${path}\` makes one`,
    )
  return clusterAt(path, authority)
}

function clusterAt(path: string, authority: Pair): ClusterFolder {
  const { publicKey } = new X509Certificate(authority.certificate)
  const authorityKey = keyHash(publicKey)
  if (keyHash(createPublicKey(createPrivateKey(authority.key))) !== authorityKey)
    throw new HeadraceError('state_failed', `in ${path} the authority's key and certificate are not of each other`)
  return {
    path,
    cluster: clusterOf(authorityKey),
    authorityKey,
    authority,
    tokens: new TokenStore(join(path, 'tokens')),
    identities: new IdentityStore(join(path, 'identities')),
    denied: new DenyStore(join(path, 'denied')),
  }
}
