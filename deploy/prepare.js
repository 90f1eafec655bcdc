/**
 * Makes a clone ready to run: installs what the lock file names unless it is installed already, then builds. Plain
 * JavaScript, because it runs before there is a compiler.
 */
import { spawnSync } from 'node:child_process'
import { statSync } from 'node:fs'

const changed = (file) => statSync(file, { throwIfNoEntry: false })?.mtimeMs ?? 0

function npm(...args) {
  process.stderr.write(`> npm ${args.join(' ')}\n`)
  const { status } = spawnSync('npm', args, { stdio: ['ignore', 2, 2], shell: process.platform === 'win32' })
  if (status !== 0) process.exit(status ?? 1)
}

process.chdir(new URL('..', import.meta.url).pathname)
if (changed('node_modules/.package-lock.json') < changed('package-lock.json')) npm('ci', '--no-audit', '--no-fund')
npm('run', '--silent', 'build')
