import { execFileSync } from 'node:child_process'
import {
  chmodSync,
  cpSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  statSync,
  writeFileSync,
} from 'node:fs'
import { tmpdir } from 'node:os'
import { basename, dirname, join, relative } from 'node:path'
import yargs from 'yargs'
import { hideBin } from 'yargs/helpers'
import { root } from '../support/paths.ts'
import { packageFolders, packagesImported } from './harness/packages.ts'

/**
 * Packs what benchmarks need on a machine of the same platform that has no network and no npm: archives of this build,
 * the packages it imports, and Node.js itself. `node dist/test/bench/pack.js [--to FOLDER] [--programs ip tc]`.
 */
const { to, programs } = await yargs(hideBin(process.argv))
  .option('to', { type: 'string', default: join(root, 'carry'), describe: 'Folder for the archives; emptied first' })
  .option('programs', {
    type: 'array',
    string: true,
    default: [],
    describe: 'Programs of this machine to take along with their libraries: ip, tc',
  })
  .strict()
  .version(false)
  .parseAsync()

/** The engine's files for other platforms are most of it. */
const ENGINE_BINARIES = join('node_modules', 'onnxruntime-node', 'bin', 'napi-v6')
const LIMIT_BYTES = 60 * 2 ** 20

const stage = mkdtempSync(join(tmpdir(), 'headrace-pack-'))
process.on('exit', () => rmSync(stage, { recursive: true, force: true }))
rmSync(to, { recursive: true, force: true })
mkdirSync(to, { recursive: true })

const staged = (...path: string[]): string => join(stage, ...path)
take('headrace', ['package.json', 'package-lock.json', 'dist', 'deploy/demo', 'deploy/model', 'test/fixtures/prompts'])
const { dependencies } = JSON.parse(readFileSync(join(root, 'package.json'), 'utf8')) as { dependencies: object }
const imported = builtModules(join(root, 'dist', 'test', 'bench')).flatMap((file) =>
  packagesImported(readFileSync(file, 'utf8')),
)
take('modules', packageFolders(root, [...Object.keys(dependencies), ...imported]))
mkdirSync(staged('node', 'bin'), { recursive: true })
cpSync(process.execPath, staged('node', 'bin', 'node'))
if (programs.length > 0) takePrograms(programs.map(String))

for (const part of readdirSync(stage)) {
  const archive = join(to, `${part}.tar.xz`)
  execFileSync('tar', ['--use-compress-program=xz -6 -T0', '-cf', archive, '-C', staged(part), '.'], {
    stdio: 'inherit',
  })
  process.stdout.write(`${archive} ${(statSync(archive).size / 2 ** 20).toFixed(1)} MiB\n`)
}
const total = readdirSync(to).reduce((sum, name) => sum + statSync(join(to, name)).size, 0)
process.stdout.write(`${(total / 2 ** 20).toFixed(1)} MiB together. On the other machine:\n${unpackText()}\n`)
if (total > LIMIT_BYTES) {
  process.stderr.write(`That is more than ${LIMIT_BYTES / 2 ** 20} MiB.\n`)
  process.exitCode = 1
}

/** Copies paths of the repository into one archive's folder, without what only compilers and debuggers read. */
function take(archive: string, paths: readonly string[]): void {
  for (const path of paths)
    cpSync(join(root, path), staged(archive, path), {
      recursive: true,
      dereference: true,
      filter: (source) => !/\.(map|d\.[cm]?ts|tsbuildinfo)$/.test(source) && isOfThisPlatform(relative(root, source)),
    })
}

function isOfThisPlatform(path: string): boolean {
  const own = join(ENGINE_BINARIES, process.platform, process.arch)
  return !path.startsWith(`${ENGINE_BINARIES}/`) || path.startsWith(own) || own.startsWith(path)
}

function builtModules(folder: string): string[] {
  return readdirSync(folder, { recursive: true, encoding: 'utf8' })
    .filter((name) => name.endsWith('.js'))
    .map((name) => join(folder, name))
}

/**
 * Each with the libraries that it is linked to, except the C library, which has to match the other machine's kernel and
 * loader. The loader is called by name, so that nothing that these programs start inherits their libraries.
 */
function takePrograms(names: readonly string[]): void {
  for (const folder of ['bin', 'lib', 'libexec']) mkdirSync(staged('programs', 'programs', folder), { recursive: true })
  for (const name of names) {
    const file = execFileSync('sh', ['-c', 'command -v "$0"', name], { encoding: 'utf8' }).trim()
    const linked = execFileSync('sh', ['-c', 'ldd "$0"', file], { encoding: 'utf8' })
    const loader = /^\s*(\/\S*\/ld-linux\S*)/m.exec(linked)?.[1] ?? '/lib64/ld-linux-x86-64.so.2'
    for (const [, library] of linked.matchAll(/=> (\/\S+)/g)) {
      if (/^(libc|libm)\.so/.test(basename(library!))) continue
      cpSync(library!, staged('programs', 'programs', 'lib', basename(library!)), { dereference: true })
    }
    cpSync(file, staged('programs', 'programs', 'libexec', name), { dereference: true })
    const script = staged('programs', 'programs', 'bin', name)
    const here = 'here=$(dirname "$(dirname "$(readlink -f "$0")")")'
    writeFileSync(
      script,
      `#!/bin/sh\n${here}\nexec ${loader} --library-path "$here/lib" "$here/libexec/${name}" "$@"\n`,
    )
    chmodSync(script, 0o755)
  }
}

function unpackText(): string {
  const folder = basename(to) === to ? to : join(basename(dirname(to)), basename(to))
  return [
    `  mkdir headrace && for part in ${folder}/*.tar.xz; do tar -xJf "$part" -C headrace; done && cd headrace`,
    '  export PATH="$PWD/bin:$PWD/programs/bin:$PATH" && node dist/test/bench/main.js split --workers 2 4 8 --tokens 8192',
  ].join('\n')
}
