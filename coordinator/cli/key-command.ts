import { resolve } from 'node:path'
import type { Argv } from 'yargs'
import { type Program, wholeNumber } from '../../shared/cli/options.ts'
import { reportFatal, stopSignal } from '../../shared/cli/process.ts'
import { HeadraceError } from '../../shared/errors.ts'
import { createKey } from '../keys/api-key.ts'
import { changeKeys, type KeyLimits, MOST_KEYS, readKeys, type StoredKey } from '../keys/key-file.ts'
import { table } from './table.ts'

/** `headrace key`. A running coordinator sees what changes within a second. */
export const keyCommand = (program: Program): Program =>
  program.command('key', 'Make, list and revoke API keys', (args) => {
    const keys = args.option('api-keys', { type: 'string', demandOption: true, describe: 'The file that holds them' })
    keys
      .command('create', 'Make a key and show it, this once', creation, (of) => create(of).catch(fatal))
      .command('list', 'Names and limits; keys themselves are kept nowhere', noOptions, (of) => list(of).catch(fatal))
      .command('revoke <id>', 'Let a key no longer in', revocation, (of) => revoke(of).catch(fatal))
      .demandCommand(1, 'Say what to do with keys: create, list or revoke.')
  })

const fatal = (thrown: unknown): void => reportFatal(thrown)
type KeyArgs = Argv<{ 'api-keys': string }>

const noOptions = (args: KeyArgs) => args

const creation = (args: KeyArgs) =>
  args
    .option('name', { type: 'string', demandOption: true, describe: 'Whose it is, for the list' })
    .option('requests-per-minute', { type: 'number', describe: 'Limit [default: none, as for the following]' })
    .option('tokens-per-minute', { type: 'number', describe: 'Of prompts and answers together' })
    .option('queued-tokens', { type: 'number', describe: 'Of prompts that wait for their turn' })
    .option('concurrent', { type: 'number', describe: 'Requests at the same time' })

const revocation = (args: KeyArgs) =>
  args.positional('id', { type: 'string', demandOption: true, describe: 'As `list` and the key itself show it' })

interface CreateArgs {
  apiKeys: string
  name: string
  requestsPerMinute?: number | undefined
  tokensPerMinute?: number | undefined
  queuedTokens?: number | undefined
  concurrent?: number | undefined
}

async function create(args: CreateArgs): Promise<void> {
  const { id, key, sha256 } = createKey()
  const stored: StoredKey = { id, name: args.name.slice(0, 100), sha256, created: now(), limits: limitsOf(args) }
  await changeKeys(
    resolve(args.apiKeys),
    (keys) => {
      if (keys.length >= MOST_KEYS) throw new HeadraceError('bad_config', `${args.apiKeys} holds ${MOST_KEYS} keys`)
      return [...keys, stored]
    },
    stopSignal(),
  )
  process.stdout.write(`${key}\n`)
  process.stderr.write('This is shown once. Clients send it as `Authorization: Bearer KEY`.\n')
}

function limitsOf(args: CreateArgs): KeyLimits {
  const limits = {
    requestsPerMinute: ['requests-per-minute', args.requestsPerMinute],
    tokensPerMinute: ['tokens-per-minute', args.tokensPerMinute],
    queuedTokens: ['queued-tokens', args.queuedTokens],
    concurrent: ['concurrent', args.concurrent],
  } as const
  const given = Object.entries(limits).filter(([, [, value]]) => value !== undefined)
  return Object.fromEntries(given.map(([name, [flag, value]]) => [name, wholeNumber(flag, value!, 1, 2 ** 31)]))
}

async function list({ apiKeys }: { apiKeys: string }): Promise<void> {
  const keys = await readKeys(resolve(apiKeys))
  const limit = (value: number | undefined): string => (value === undefined ? '-' : String(value))
  const rows = keys.map(({ id, name, created, limits }) => [
    id,
    name,
    created,
    limit(limits.requestsPerMinute),
    limit(limits.tokensPerMinute),
    limit(limits.queuedTokens),
    limit(limits.concurrent),
  ])
  process.stdout.write(`${table(['id', 'name', 'created', 'requests/min', 'tokens/min', 'queued', 'at once'], rows)}\n`)
}

async function revoke({ apiKeys, id }: { apiKeys: string; id: string }): Promise<void> {
  await changeKeys(
    resolve(apiKeys),
    (keys) => {
      const left = keys.filter((key) => key.id !== id)
      if (left.length === keys.length) throw new HeadraceError('bad_config', `${apiKeys} has no key ${id}`)
      return left
    },
    stopSignal(),
  )
  process.stdout.write(`revoked ${id}\n`)
}

const now = (): string => new Date().toISOString()
