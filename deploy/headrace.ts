#!/usr/bin/env node
import yargs from 'yargs'
import { hideBin } from 'yargs/helpers'
import { askCommand } from '../coordinator/cli/ask-command.ts'
import { coordinatorCommand } from '../coordinator/cli/coordinator-command.ts'
import { demoCommand } from '../coordinator/cli/demo-command.ts'
import { identityCommand } from '../coordinator/cli/identity-command.ts'
import { initCommand } from '../coordinator/cli/init-command.ts'
import { keyCommand } from '../coordinator/cli/key-command.ts'
import { planCommand } from '../coordinator/cli/plan-command.ts'
import { pullCommand } from '../coordinator/cli/pull-command.ts'
import { tokenCommand } from '../coordinator/cli/token-command.ts'
import { upCommand } from '../coordinator/cli/up-command.ts'
import { verifyCommand } from '../coordinator/cli/verify-command.ts'
import type { Program } from '../shared/cli/options.ts'
import { flagsFromEnvironment } from '../shared/env.ts'
import { LOG_LEVELS } from '../shared/log.ts'
import { packageVersion } from '../shared/version.ts'
import { workerCommand } from '../worker/cli.ts'
import { devicesCommand } from '../worker/devices/devices-command.ts'

/** The `headrace` program: the one place that knows both sides. Every flag is also an environment variable. */
const program: Program = yargs(hideBin(process.argv))
  .scriptName('headrace')
  .usage('$0 <command>\n\nEvery flag is also an environment variable: --kv-budget-mib is HEADRACE_KV_BUDGET_MIB.')
  .env('HEADRACE')
  .middleware(forgetForeign, true)
  .option('log-level', { choices: LOG_LEVELS, default: 'info', describe: 'Of the JSON lines on standard error' })

for (const add of [
  upCommand,
  askCommand,
  planCommand,
  demoCommand,
  pullCommand,
  verifyCommand,
  keyCommand,
  coordinatorCommand,
  workerCommand,
  devicesCommand,
  initCommand,
  tokenCommand,
  identityCommand,
])
  add(program)

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
