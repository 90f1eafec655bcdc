import { randomUUID } from 'node:crypto'
import { unwatchFile, watchFile } from 'node:fs'
import { readdir, rm } from 'node:fs/promises'
import { join } from 'node:path'
import { type Denied, type DenyList, deniedSchema, stillDenied } from '../../shared/security/deny-list.ts'
import { makePrivateFolder, readPrivate, writePrivate } from '../../shared/security/private-file.ts'

/** How often the folder is looked at. By its status, which any file system tells, also one from elsewhere. */
const LOOK_MS = 250

/** Revocations as files, one each, so that the command line and a coordinator may add some at the same time. */
export class DenyStore {
  readonly #folder: string

  constructor(folder: string) {
    this.#folder = folder
  }

  async add(denied: Denied): Promise<void> {
    await makePrivateFolder(this.#folder)
    const files = await this.#files()
    const left = new Set(stillDenied([...files.values()], denied.at))
    await writePrivate(join(this.#folder, `${randomUUID()}.json`), JSON.stringify(denied))
    for (const [name, old] of files) if (!left.has(old)) await rm(join(this.#folder, name), { force: true })
  }

  async list(): Promise<DenyList> {
    return [...(await this.#files()).values()].sort((a, b) => a.at - b.at)
  }

  /** Calls back when the folder may have changed, until aborted. */
  watch(onChange: () => void, signal: AbortSignal): void {
    watchFile(this.#folder, { interval: LOOK_MS }, onChange)
    signal.addEventListener('abort', () => unwatchFile(this.#folder, onChange), { once: true })
  }

  async #files(): Promise<ReadonlyMap<string, Denied>> {
    const names = await readdir(this.#folder).catch(() => []) // nobody has been denied yet
    const files = new Map<string, Denied>()
    for (const name of names.filter((one) => one.endsWith('.json'))) {
      const denied = await readPrivate(join(this.#folder, name), deniedSchema)
      if (denied !== undefined) files.set(name, denied)
    }
    return files
  }
}
