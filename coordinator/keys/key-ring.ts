import { stat } from 'node:fs/promises'
import type { Clock } from '../../shared/clock.ts'
import { asHeadraceError } from '../../shared/errors.ts'
import type { Log } from '../../shared/log.ts'
import { Account } from './account.ts'
import { isSecret, type KeyId, splitKey } from './api-key.ts'
import { readKeys } from './key-file.ts'

/** How old the answer to "has the file changed" may be: so long a revoked key may yet be good, and its runs go on. */
const LOOK_SECONDS = 1

interface Held {
  readonly sha256: string
  readonly account: Account
}

/** The keys of a file, as the file is now. An account lives as long as its key, so their number is bounded by the file. */
export class KeyRing {
  readonly #file: string
  readonly #clock: Clock
  readonly #log: Log
  #keys = new Map<KeyId, Held>()
  #seen = ''
  #lookedAt = Number.NEGATIVE_INFINITY
  #looking: Promise<void> | undefined

  private constructor(file: string, clock: Clock, log: Log) {
    this.#file = file
    this.#clock = clock
    this.#log = log
  }

  /** Throws `bad_config` if the file cannot be read. */
  static async open(file: string, clock: Clock, log: Log): Promise<KeyRing> {
    const ring = new KeyRing(file, clock, log)
    ring.#seen = await versionOf(file)
    await ring.#read()
    ring.#lookedAt = clock.now()
    return ring
  }

  /** The account that the key opens, if any. */
  async account(presented: string): Promise<Account | undefined> {
    await this.#refresh()
    const parts = splitKey(presented)
    const held = parts && this.#keys.get(parts.id)
    return held !== undefined && isSecret(parts!.secret, held.sha256) ? held.account : undefined
  }

  async #refresh(): Promise<void> {
    if (this.#clock.now() - this.#lookedAt < LOOK_SECONDS) return
    this.#looking ??= this.#look().finally(() => {
      this.#looking = undefined
    })
    await this.#looking
  }

  async #look(): Promise<void> {
    const version = await versionOf(this.#file)
    this.#lookedAt = this.#clock.now()
    if (version === this.#seen) return
    this.#seen = version
    try {
      await this.#read()
      this.#log.info({ keys: this.#keys.size }, 'API keys read again')
    } catch (thrown) {
      // Who takes the file away means that nobody shall come in; a slip in an editor must not lock everybody out.
      if (version === ABSENT) this.#forgetAll()
      this.#log.error({ err: asHeadraceError(thrown), keys: this.#keys.size }, 'API keys could not be read')
    }
  }

  #forgetAll(): void {
    const old = this.#keys
    this.#keys = new Map()
    this.#revokeGone(old)
  }

  async #read(): Promise<void> {
    const stored = await readKeys(this.#file)
    const old = this.#keys
    this.#keys = new Map(
      stored.map(({ id, sha256, limits }) => {
        const known = old.get(id)
        const same = known?.sha256 === sha256 ? known.account : undefined
        const account = same ?? new Account(id, limits, this.#clock, () => this.#refresh())
        account.limit(limits)
        return [id, { sha256, account }]
      }),
    )
    this.#revokeGone(old)
  }

  /** Of the accounts that there were, those that are no more. */
  #revokeGone(old: ReadonlyMap<KeyId, Held>): void {
    for (const [id, { account }] of old) if (this.#keys.get(id)?.account !== account) account.revoke()
  }
}

const ABSENT = ''

/** Another one for any other content: files are replaced whole, so that a change is another file. */
async function versionOf(file: string): Promise<string> {
  const found = await stat(file, { bigint: true }).catch(() => undefined) // not there, or not to be seen: the reader says why
  return found === undefined ? ABSENT : `${found.dev}:${found.ino}:${found.size}:${found.mtimeNs}`
}
