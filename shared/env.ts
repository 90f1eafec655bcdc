/** The only file that reads the environment. Command line flags read theirs through yargs (`HEADRACE_*`). */
export function environmentWith(extra: Readonly<Record<string, string>>): NodeJS.ProcessEnv {
  return { ...process.env, ...extra }
}
