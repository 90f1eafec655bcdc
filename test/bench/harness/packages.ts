import { existsSync, readFileSync } from 'node:fs'
import { dirname, join, relative } from 'node:path'

/** Which installed packages some modules need. */

interface Manifest {
  readonly dependencies?: Readonly<Record<string, string>>
  readonly optionalDependencies?: Readonly<Record<string, string>>
}

/** The packages that a module names in its imports: `openai` of `openai/core`, nothing of `node:fs` and `./own.js`. */
export function packagesImported(source: string): string[] {
  const names = source.matchAll(/(?:^|\s)(?:from|import)\s*\(?\s*'((?:@[\w.-]+\/)?[a-z\d][\w.-]*)(?:\/[^']*)?'/g)
  return [...new Set([...names].map(([, name]) => name!))]
}

/** These modules and all that they import, directly or not, by their paths. */
export function modulesImported(files: readonly string[]): string[] {
  const found = new Set<string>()
  const waiting = [...files]
  for (let file = waiting.pop(); file !== undefined; file = waiting.pop()) {
    if (found.has(file)) continue
    found.add(file)
    for (const [, path] of readFileSync(file, 'utf8').matchAll(/(?:^|\s)(?:from|import)\s*\(?\s*'(\.{1,2}\/[^']+)'/g))
      waiting.push(join(dirname(file), path!))
  }
  return [...found]
}

/** Folders below `node_modules` of these packages and all that they depend on; one inside another is not listed. */
export function packageFolders(root: string, names: readonly string[]): string[] {
  const found = new Set<string>()
  const waiting = names.map((name) => ({ name, from: root, optional: false }))
  for (let next = waiting.pop(); next !== undefined; next = waiting.pop()) {
    const folder = resolved(next.name, next.from)
    if (folder === undefined) {
      if (next.optional) continue
      throw new Error(`${next.name}, which ${next.from} needs, is not installed`)
    }
    if (found.has(folder)) continue
    found.add(folder)
    const { dependencies, optionalDependencies } = JSON.parse(
      readFileSync(join(folder, 'package.json'), 'utf8'),
    ) as Manifest
    for (const name of Object.keys({ ...dependencies, ...optionalDependencies }))
      waiting.push({ name, from: folder, optional: name in (optionalDependencies ?? {}) })
  }
  const folders = [...found].map((folder) => relative(root, folder))
  return folders.filter((folder) => folder.lastIndexOf('node_modules') === 0).sort()
}

/** As Node looks for it: here, then in every folder above. */
function resolved(name: string, from: string): string | undefined {
  for (let folder = from; ; folder = dirname(folder)) {
    const candidate = join(folder, 'node_modules', name)
    if (existsSync(join(candidate, 'package.json'))) return candidate
    if (folder === dirname(folder)) return undefined
  }
}
