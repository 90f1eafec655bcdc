import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { readFile } from 'node:fs/promises'
import { join } from 'node:path'
import { HeadraceError } from '../../../shared/errors.ts'
import { root } from '../../support/paths.ts'

/** The program that benchmarks compare with has a package of its own: nobody who only uses Headrace installs it. */
const FOLDER = join(root, 'test', 'bench', 'peer')
const PACKAGE = 'node-llama-cpp'

export interface PeerPackage {
  readonly program: string
  readonly version: string
}

/** Installs what the lock file says, unless it is there. No install script runs: the libraries come prebuilt. */
export async function peerPackage(note: (text: string) => void, signal: AbortSignal): Promise<PeerPackage> {
  if (process.platform !== 'linux' || process.arch !== 'x64')
    throw new HeadraceError('bad_config', 'the program to compare with is installed for Linux on x64 only')
  const wanted = await versionIn(
    join(FOLDER, 'package-lock.json'),
    (json) => json.packages?.[`node_modules/${PACKAGE}`],
  )
  const installed = join(FOLDER, 'node_modules', PACKAGE, 'package.json')
  if ((await versionIn(installed, (json) => json)) !== wanted) {
    note(`installing ${PACKAGE} ${wanted} (about 85 MB) below ${FOLDER}`)
    // The optional packages are the same libraries for graphics cards and other systems.
    const args = ['ci', '--ignore-scripts', '--omit=optional', '--no-audit', '--no-fund']
    const npm = spawn('npm', args, { cwd: FOLDER, stdio: ['ignore', 'ignore', 'inherit'], signal })
    const [code] = await once(npm, 'exit')
    if (code !== 0) throw new HeadraceError('bad_config', `npm ${args.join(' ')} failed in ${FOLDER}`)
  }
  return { program: join(FOLDER, 'peer.mjs'), version: `${PACKAGE} ${wanted}` }
}

interface Json {
  readonly version?: string
  readonly packages?: Readonly<Record<string, { version?: string }>>
}

async function versionIn(file: string, where: (json: Json) => Json | undefined): Promise<string | undefined> {
  const text = await readFile(file, 'utf8').catch(() => undefined) // not there is not installed
  return text === undefined ? undefined : where(JSON.parse(text) as Json)?.version
}
