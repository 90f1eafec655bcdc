import { homedir } from 'node:os'
import { isAbsolute, join } from 'node:path'

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

/** Where this system's programs keep what they can fetch again (XDG Base Directory Specification, on Linux). */
export function userCacheFolder(): string {
  const { XDG_CACHE_HOME: xdg, LOCALAPPDATA: local } = process.env
  if (xdg !== undefined && isAbsolute(xdg)) return xdg
  if (process.platform === 'darwin') return join(homedir(), 'Library', 'Caches')
  return process.platform === 'win32' && local !== undefined ? local : join(homedir(), '.cache')
}

/** The user's key to models that are not open to all. */
export const hubToken = (): string | undefined => process.env['HF_TOKEN'] || undefined

/** Whether the user wants terminals without colour (no-color.org). */
export const noColour = (): boolean => (process.env['NO_COLOR'] ?? '') !== ''
