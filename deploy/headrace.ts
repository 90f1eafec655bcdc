#!/usr/bin/env node
import yargs from 'yargs'
import { hideBin } from 'yargs/helpers'
import type { Program } from '../shared/cli/options.ts'
import { flagsFromEnvironment } from '../shared/env.ts'
import { LOG_LEVELS } from '../shared/log.ts'
import { packageVersion } from '../shared/version.ts'

type Command = (program: Program) => Program

/** Only what is asked for is loaded: a worker would hold 10 MiB of the coordinator's code. */
const COMMANDS = new Map<string, () => Promise<Command>>([
  ['up', async () => (await import('../coordinator/cli/up-command.ts')).upCommand],
  ['ask', async () => (await import('../coordinator/cli/ask-command.ts')).askCommand],
  ['plan', async () => (await import('../coordinator/cli/plan-command.ts')).planCommand],
  ['demo', async () => (await import('../coordinator/cli/demo-command.ts')).demoCommand],
  ['pull', async () => (await import('../coordinator/cli/pull-command.ts')).pullCommand],
  ['verify', async () => (await import('../coordinator/cli/verify-command.ts')).verifyCommand],
  ['key', async () => (await import('../coordinator/cli/key-command.ts')).keyCommand],
  ['coordinator', async () => (await import('../coordinator/cli/coordinator-command.ts')).coordinatorCommand],
  ['worker', async () => (await import('../worker/cli.ts')).workerCommand],
  ['devices', async () => (await import('../worker/devices/devices-command.ts')).devicesCommand],
  ['init', async () => (await import('../coordinator/cli/init-command.ts')).initCommand],
  ['token', async () => (await import('../coordinator/cli/token-command.ts')).tokenCommand],
  ['identity', async () => (await import('../coordinator/cli/identity-command.ts')).identityCommand],
])

/** The `headrace` program: the one place that knows both sides. Every flag is also an environment variable. */
const program: Program = yargs(hideBin(process.argv))
  .scriptName('headrace')
  .usage('$0 <command>\n\nEvery flag is also an environment variable: --kv-budget-mib is HEADRACE_KV_BUDGET_MIB.')
  .env('HEADRACE')
  .middleware(forgetForeign, true)
  .option('log-level', { choices: LOG_LEVELS, default: 'info', describe: 'Of the JSON lines on standard error' })

const given = COMMANDS.get(hideBin(process.argv)[0] ?? '')
for (const load of given ? [given] : COMMANDS.values()) (await load())(program)

await program
  .demandCommand(1, 'Say what to do.')
  .strict()
  .version(packageVersion)
  .wrap(Math.min(110, process.stdout.columns ?? 110))
  .parseAsync()

/**
 * A variable may be meant for another command: `HEADRACE_WORKERS` is none of
 * `coordinator`'s. Only flags that are typed must be known.
 */
function forgetForeign(given: Record<string, unknown>): void {
  const { key: known } = (program as unknown as { getOptions(): { key: Record<string, unknown> } }).getOptions()
  for (const flag of flagsFromEnvironment()) {
    if (flag in known || process.argv.some((word) => word.startsWith(`--${flag}`))) continue
    for (const name of [flag, camelCase(flag)]) delete given[name]
  }
}

function camelCase(flag: string): string {
  return flag.replaceAll(/-(.)/g, (_, letter: string) => letter.toUpperCase())
}
