import { readdir, rm } from 'node:fs/promises'
import { join } from 'node:path'
import { HeadraceError } from '../../shared/errors.ts'
import { claimPrivate, makePrivateFolder, readPrivate, writePrivate } from '../../shared/security/private-file.ts'
import { type TokenRecord, tokenRecordSchema } from './token-rules.ts'

/** Bounds the folder, and what `token list` prints. */
const MOST_TOKENS = 1000

/**
 * Join tokens as files, one each: `ID.json`, and `ID.use-N` for each use. A use is a file that must not be there yet, so of
 * all that come at once each takes another one, and it is on disk before anything is signed for it.
 */
export class TokenStore {
  readonly #folder: string

  constructor(folder: string) {
    this.#folder = folder
  }

  async add(record: TokenRecord): Promise<void> {
    await makePrivateFolder(this.#folder)
    for (const { id, expiresAt } of await this.all()) if (expiresAt <= record.createdAt) await this.remove(id)
    if ((await this.all()).length >= MOST_TOKENS)
      throw new HeadraceError('state_failed', `there are ${MOST_TOKENS} join tokens already: revoke some`)
    await writePrivate(this.#path(record.id, 'json'), JSON.stringify(record))
  }

  find(id: string): Promise<TokenRecord | undefined> {
    return readPrivate(this.#path(id, 'json'), tokenRecordSchema)
  }

  /** @throws `token_refused` if all its uses are taken */
  async use({ id, uses }: TokenRecord, by: string): Promise<void> {
    for (let use = 1; use <= uses; use++) if (await claimPrivate(this.#path(id, `use-${use}`), by)) return
    throw new HeadraceError(
      'token_refused',
      uses === 1 ? 'the join token is used' : `the join token is used ${uses} times`,
    )
  }

  /** In the order of creation, with how often each was used. */
  async all(): Promise<(TokenRecord & { readonly used: number })[]> {
    const names = await readdir(this.#folder).catch(() => []) // no token yet
    const found = await Promise.all(
      names.filter((name) => name.endsWith('.json')).map((name) => this.find(name.slice(0, -'.json'.length))),
    )
    return found
      .flatMap((record) => record ?? [])
      .map((record) => ({ ...record, used: names.filter((name) => name.startsWith(`${record.id}.use-`)).length }))
      .sort((a, b) => a.createdAt - b.createdAt)
  }

  /** Whether there was such a token. The token goes first, its uses after it: none can come back to life in between. */
  async remove(id: string): Promise<boolean> {
    const names = await readdir(this.#folder).catch(() => []) // no token yet
    const mine = names.filter((name) => name.startsWith(`${id}.`)).sort()
    for (const name of mine) await rm(join(this.#folder, name), { force: true })
    return mine.length > 0
  }

  #path(id: string, what: string): string {
    return join(this.#folder, `${id}.${what}`)
  }
}
