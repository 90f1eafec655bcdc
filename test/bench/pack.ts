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
import { basename, join, relative } from 'node:path'
import yargs from 'yargs'
import { hideBin } from 'yargs/helpers'
import { root } from '../support/paths.ts'
import { modulesImported, packageFolders, packagesImported } from './harness/packages.ts'
import { mebibytes } from './harness/report.ts'

/**
 * Packs what benchmarks need on a machine of the same platform that has no network and no npm: archives of this build,
 * the packages it imports, and Node.js itself. `node dist/test/bench/pack.js --to carry [--programs ip tc]`.
 */
const program = yargs(hideBin(process.argv))
  .option('to', {
    type: 'string',
    describe: 'Folder for the archives, such as carry; archives that are there are removed',
  })
  .option('programs', {
    type: 'array',
    string: true,
    default: [],
    describe: 'Programs of this machine to take along with their libraries: ip, tc',
  })
  .strict()
  .version(false)
const { to, programs } = await program.parseAsync()

/** The engine's files for other platforms are most of it. */
const ENGINE_BINARIES = join('node_modules', 'onnxruntime-node', 'bin', 'napi-v6')
const LIMIT_BYTES = 60 * 2 ** 20

// No folder is no error: `node --test` runs every file below `dist/test`, so this one too.
if (to === undefined) program.showHelp('log')
else pack(to, programs.map(String))

function pack(to: string, programs: readonly string[]): void {
  const stage = mkdtempSync(join(tmpdir(), 'headrace-pack-'))
  try {
    stageAll(stage, programs)
    mkdirSync(to, { recursive: true })
    for (const old of readdirSync(to).filter((name) => name.endsWith('.tar.xz'))) rmSync(join(to, old))
    const total = readdirSync(stage).reduce(
      (sum, part) => sum + archive(join(stage, part), join(to, `${part}.tar.xz`)),
      0,
    )
    process.stdout.write(`${mebibytes(total)} MiB together. On the other machine:\n${unpackText(basename(to))}\n`)
    if (total <= LIMIT_BYTES) return
    process.stderr.write(`That is more than ${mebibytes(LIMIT_BYTES)} MiB.\n`)
    process.exitCode = 1
  } finally {
    rmSync(stage, { recursive: true, force: true })
  }
}

/** A folder for each archive. */
function stageAll(stage: string, programs: readonly string[]): void {
  const own = [
    'package.json',
    'package-lock.json',
    'dist',
    'deploy/demo',
    'deploy/model',
    'test/fixtures/prompts',
    'test/fixtures/llama',
  ]
  take(join(stage, 'headrace'), own)
  const { dependencies } = JSON.parse(readFileSync(join(root, 'package.json'), 'utf8')) as { dependencies: object }
  const modules = modulesImported(builtModules(join(root, 'dist', 'test', 'bench')))
  const imported = modules.flatMap((file) => packagesImported(readFileSync(file, 'utf8')))
  take(join(stage, 'modules'), packageFolders(root, [...Object.keys(dependencies), ...imported]))
  mkdirSync(join(stage, 'node', 'bin'), { recursive: true })
  cpSync(process.execPath, join(stage, 'node', 'bin', 'node'))
  if (programs.length > 0) takePrograms(join(stage, 'programs', 'programs'), programs)
}

/** How many bytes the archive has. */
function archive(folder: string, file: string): number {
  execFileSync('tar', ['--use-compress-program=xz -6 -T0', '-cf', file, '-C', folder, '.'], { stdio: 'inherit' })
  const { size } = statSync(file)
  process.stdout.write(`${file} ${mebibytes(size)} MiB\n`)
  return size
}

/** Copies paths of the repository into one archive's folder, without what only compilers and debuggers read. */
function take(folder: string, paths: readonly string[]): void {
  for (const path of paths)
    cpSync(join(root, path), join(folder, path), {
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
    .filter((name) => name.endsWith('.js') && !name.endsWith('.test.js'))
    .map((name) => join(folder, name))
}

/**
 * Each with the libraries that it is linked to, except the C library, which has to match the other machine's kernel and
 * loader. The loader is called by name, so that nothing that these programs start inherits their libraries.
 */
function takePrograms(to: string, names: readonly string[]): void {
  for (const folder of ['bin', 'lib', 'libexec']) mkdirSync(join(to, folder), { recursive: true })
  for (const name of names) {
    const file = execFileSync('sh', ['-c', 'command -v "$0"', name], { encoding: 'utf8' }).trim()
    const linked = execFileSync('sh', ['-c', 'ldd "$0"', file], { encoding: 'utf8' })
    const loader = /^\s*(\/\S*\/ld-linux\S*)/m.exec(linked)?.[1] ?? '/lib64/ld-linux-x86-64.so.2'
    for (const [, library] of linked.matchAll(/=> (\/\S+)/g)) {
      if (/^(libc|libm)\.so/.test(basename(library!))) continue
      cpSync(library!, join(to, 'lib', basename(library!)), { dereference: true })
    }
    cpSync(file, join(to, 'libexec', name), { dereference: true })
    const script = join(to, 'bin', name)
    const here = 'here=$(dirname "$(dirname "$(readlink -f "$0")")")'
    writeFileSync(
      script,
      `#!/bin/sh\n${here}\nexec ${loader} --library-path "$here/lib" "$here/libexec/${name}" "$@"\n`,
    )
    chmodSync(script, 0o755)
  }
}

function unpackText(folder: string): string {
  return [
    `  mkdir headrace && for part in ${folder}/*.tar.xz; do tar -xJf "$part" -C headrace; done && cd headrace`,
    '  export PATH="$PWD/bin:$PWD/programs/bin:$PATH" && node dist/test/bench/main.js split --workers 2 4 8 --tokens 8192',
  ].join('\n')
}
