/** The only file that reads the environment. Command line flags read theirs through yargs (`HEADRACE_*`). */

const PREFIX = 'HEADRACE_'

/** For a process that is started with all its flags: those of this one are none of its business (two ports, say). */
export function environmentForChild(extra: Readonly<Record<string, string>>): NodeJS.ProcessEnv {
  const inherited = Object.entries(process.env).filter(([name]) => !name.startsWith(PREFIX))
  return { ...Object.fromEntries(inherited), ...extra }
}

/** The flags that variables name: `HEADRACE_LOG_LEVEL` is `log-level`. */
export function flagsFromEnvironment(): string[] {
  const names = Object.keys(process.env).filter((name) => name.startsWith(PREFIX))
  return names.map((name) => name.slice(PREFIX.length).toLowerCase().replaceAll('_', '-'))
}

/** Whether the user wants terminals without colour (no-color.org). */
export const noColour = (): boolean => (process.env['NO_COLOR'] ?? '') !== ''
