/** The only file that reads the environment. Command line flags read theirs through yargs (`HEADRACE_*`). */
export function stringFromEnv(name: string): string | undefined {
  const value = process.env[name]
  return value === undefined || value === '' ? undefined : value
}
