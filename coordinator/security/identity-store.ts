import { readdir } from 'node:fs/promises'
import { join } from 'node:path'
import { z } from 'zod'
import { roleSchema } from '../../shared/protocol/control.ts'
import { isName } from '../../shared/security/identity.ts'
import { makePrivateFolder, readPrivate, writePrivate } from '../../shared/security/private-file.ts'

/** A worker's identity as it was issued last. */
const identityRecordSchema = z.strictObject({
  name: z.string().refine(isName),
  role: roleSchema,
  /** SHA-256 of the public key. */
  key: z.string().length(64),
  /** Seconds since 1970. */
  issuedAt: z.number(),
  expiresAt: z.number(),
})
export type IdentityRecord = Readonly<z.infer<typeof identityRecordSchema>>

/** Who has a certificate of the cluster: a file for each name. */
export class IdentityStore {
  readonly #folder: string

  constructor(folder: string) {
    this.#folder = folder
  }

  async put(record: IdentityRecord): Promise<void> {
    await makePrivateFolder(this.#folder)
    await writePrivate(this.#path(record.name), JSON.stringify(record))
  }

  /** @param name as `isName` wants it: it becomes part of a path */
  find(name: string): Promise<IdentityRecord | undefined> {
    return readPrivate(this.#path(name), identityRecordSchema)
  }

  async all(): Promise<IdentityRecord[]> {
    const names = await readdir(this.#folder).catch(() => []) // nobody has joined yet
    const found = await Promise.all(
      names.filter((name) => name.endsWith('.json')).map((name) => this.find(name.slice(0, -'.json'.length))),
    )
    return found.flatMap((record) => record ?? []).sort((a, b) => (a.name < b.name ? -1 : 1))
  }

  #path(name: string): string {
    return join(this.#folder, `${name}.json`)
  }
}
