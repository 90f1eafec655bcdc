import { resolve } from 'node:path'
import { type Program, seconds, wholeNumber } from '../../shared/cli/options.ts'
import { reportFatal } from '../../shared/cli/process.ts'
import { HeadraceError } from '../../shared/errors.ts'
import type { Role } from '../../shared/protocol/control.ts'
import { isName } from '../../shared/security/identity.ts'
import { newToken, secretHash, tokenText } from '../../shared/security/join-token.ts'
import { openCluster } from '../security/cluster-folder.ts'
import { DEFAULT_CLUSTER } from './init-command.ts'
import { table } from './table.ts'

/** Longer-lived tokens are passwords. */
const MOST_SECONDS = 7 * 24 * 3600

/** `headrace token create | list | revoke`. */
export const tokenCommand = (program: Program): Program =>
  program.command('token', 'Join tokens: what lets a worker into the cluster', (args) =>
    args
      .option('cluster', { type: 'string', default: DEFAULT_CLUSTER, describe: 'Folder of the cluster' })
      .command(
        'create',
        'Make one and print it; it is stored nowhere',
        (of) =>
          of
            .option('role', {
              choices: ['prefill', 'decode'] as const,
              default: 'prefill' as const,
              describe: 'What its bearer may be',
            })
            .option('name', { type: 'string', describe: 'Who its bearer will be [default: a free name of its choice]' })
            .option('uses', { type: 'number', default: 1, describe: 'Workers that may join with it' })
            .option('ttl', { type: 'string', default: '15m', describe: 'How long it lives: 90s, 15m, 2h, 1d' }),
        (of) => create(of).catch((thrown: unknown) => reportFatal(thrown)),
      )
      .command(
        'list',
        'Show those that are there',
        (of) => of,
        (of) => list(of.cluster).catch((thrown: unknown) => reportFatal(thrown)),
      )
      .command(
        'revoke <id>',
        'Make one worthless; who has joined with it stays',
        (of) => of.positional('id', { type: 'string', demandOption: true, describe: 'As in the list' }),
        (of) => revoke(of.cluster, of.id).catch((thrown: unknown) => reportFatal(thrown)),
      )
      .demandCommand(1, 'Say what to do with tokens.'),
  )

interface Create {
  readonly cluster: string
  readonly role: Role
  readonly name?: string | undefined
  readonly uses: number
  readonly ttl: string
}

async function create({ cluster, role, name, uses, ttl }: Create): Promise<void> {
  if (name !== undefined && !isName(name))
    throw new HeadraceError('bad_config', '--name takes letters, digits, dots, dashes and underscores, at most 64')
  const life = seconds('ttl', ttl, MOST_SECONDS)
  const { tokens, authorityKey } = await openCluster(resolve(cluster))
  const token = newToken(authorityKey)
  const createdAt = Date.now() / 1000
  await tokens.add({
    id: token.id,
    hash: secretHash(token.secret),
    role,
    ...(name === undefined ? {} : { name }),
    uses: wholeNumber('uses', name === undefined ? uses : Math.min(uses, 1), 1, 1000),
    createdAt,
    expiresAt: createdAt + life,
  })
  process.stdout.write(`${tokenText(token)}\n`)
}

async function list(cluster: string): Promise<void> {
  const { tokens } = await openCluster(resolve(cluster))
  const now = Date.now() / 1000
  const rows = (await tokens.all()).map(({ id, role, name, uses, used, expiresAt }) => [
    id,
    role,
    name ?? '',
    `${used} of ${uses}`,
    expiresAt <= now ? 'ended' : used >= uses ? 'used' : `until ${new Date(expiresAt * 1000).toISOString()}`,
  ])
  process.stdout.write(`${table(['id', 'role', 'name', 'used', ''], rows)}\n`)
}

async function revoke(cluster: string, id: string): Promise<void> {
  const { tokens } = await openCluster(resolve(cluster))
  if (!/^[0-9a-f]{8}$/.test(id) || !(await tokens.remove(id)))
    throw new HeadraceError('token_refused', `there is no token ${id}`)
  process.stdout.write(`token ${id} is revoked\n`)
}
