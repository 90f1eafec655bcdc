import { createRequire } from 'node:module'

/** The version of this package, from its own `package.json` (two folders above the compiled file). */
export const packageVersion: string = (createRequire(import.meta.url)('../../package.json') as { version: string })
  .version
