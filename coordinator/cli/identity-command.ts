import { resolve } from 'node:path'
import type { Program } from '../../shared/cli/options.ts'
import { reportFatal } from '../../shared/cli/process.ts'
import { HeadraceError } from '../../shared/errors.ts'
import { isDenied } from '../../shared/security/deny-list.ts'
import { isName } from '../../shared/security/identity.ts'
import { openCluster } from '../security/cluster-folder.ts'
import { DEFAULT_CLUSTER } from './init-command.ts'
import { table } from './table.ts'

/** `headrace identity list | revoke`. */
export const identityCommand = (program: Program): Program =>
  program.command('identity', "Workers' identities: who has a certificate of the cluster", (args) =>
    args
      .option('cluster', { type: 'string', default: DEFAULT_CLUSTER, describe: 'Folder of the cluster' })
      .command(
        'list',
        'Show them',
        (of) => of,
        (of) => list(of.cluster).catch((thrown: unknown) => reportFatal(thrown)),
      )
      .command(
        'revoke <name>',
        'Put one out: its links are closed at once; it comes back only with a new token',
        (of) => of.positional('name', { type: 'string', demandOption: true, describe: 'As in the list' }),
        (of) => revoke(of.cluster, of.name).catch((thrown: unknown) => reportFatal(thrown)),
      )
      .demandCommand(1, 'Say what to do with identities.'),
  )

async function list(cluster: string): Promise<void> {
  const { identities, denied } = await openCluster(resolve(cluster))
  const [all, denyList] = await Promise.all([identities.all(), denied.list()])
  const now = Date.now() / 1000
  const rows = all.map((identity) => {
    const until = new Date(identity.expiresAt * 1000).toISOString()
    const state = isDenied(denyList, identity)
      ? 'revoked'
      : identity.expiresAt <= now
        ? `ended ${until}`
        : `until ${until}`
    return [identity.name, identity.role, state, identity.key.slice(0, 16)]
  })
  process.stdout.write(`${table(['name', 'role', 'certificate', 'key'], rows)}\n`)
}

async function revoke(cluster: string, name: string): Promise<void> {
  const { identities, denied } = await openCluster(resolve(cluster))
  const identity = isName(name) ? await identities.find(name) : undefined
  if (identity === undefined) throw new HeadraceError('bad_config', `nobody has joined under the name ${name}`)
  await denied.add({ name, key: identity.key, at: Date.now() / 1000, until: identity.expiresAt })
  process.stdout.write(`the identity of ${name} is revoked; tokens that are left could let it in again\n`)
}
