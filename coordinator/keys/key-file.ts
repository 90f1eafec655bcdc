import { randomUUID } from 'node:crypto'
import { mkdir, open, readFile, rename, rm } from 'node:fs/promises'
import { dirname } from 'node:path'
import { z } from 'zod'
import { HeadraceError } from '../../shared/errors.ts'
import { realClock } from '../../shared/link/real-clock.ts'
import { takeLock } from '../../shared/model-store/lock.ts'

/** The file of API keys: JSON that only its owner may read, replaced in one step, so that nobody sees half of it. */

export const MOST_KEYS = 10_000

const limit = z.number().int().min(1).optional()

const keyLimits = z.object({
  requestsPerMinute: limit,
  /** Of prompts and answers together. */
  tokensPerMinute: limit,
  /** Of prompts that wait for their turn. */
  queuedTokens: limit,
  /** Requests at the same time. */
  concurrent: limit,
})
/** What a key may do; what is absent is not limited. */
export type KeyLimits = z.infer<typeof keyLimits>

const storedKey = z.object({
  id: z.string().regex(/^[0-9a-f]{8}$/),
  name: z.string().max(100),
  sha256: z.string().regex(/^[0-9a-f]{64}$/),
  created: z.string().max(40),
  limits: keyLimits,
})
export type StoredKey = z.infer<typeof storedKey>

const keyFile = z.object({ keys: z.array(storedKey).max(MOST_KEYS) })

/** Throws `bad_config` that names the file; never what is in it. */
export async function readKeys(file: string): Promise<StoredKey[]> {
  let text: string
  try {
    text = await readFile(file, 'utf8')
  } catch (cause) {
    throw new HeadraceError('bad_config', `--api-keys ${file} cannot be read; \`headrace key create\` makes it`, {
      cause,
    })
  }
  try {
    return keyFile.parse(JSON.parse(text)).keys
  } catch {
    throw new HeadraceError('bad_config', `--api-keys ${file} is not a file that \`headrace key\` wrote`)
  }
}

/** Changes the keys; two at once take turns. A file that is not there yet has none. */
export async function changeKeys(
  file: string,
  change: (keys: readonly StoredKey[]) => readonly StoredKey[],
  signal: AbortSignal,
): Promise<void> {
  await mkdir(dirname(file), { recursive: true, mode: 0o700 })
  const unlock = await takeLock(`${file}.lock`, realClock, signal, () => undefined)
  try {
    const keys = change(await readKeys(file).catch(emptyIfAbsent))
    await replace(file, `${JSON.stringify({ keys }, undefined, 2)}\n`)
  } finally {
    await unlock()
  }
}

function emptyIfAbsent(thrown: unknown): StoredKey[] {
  const { cause } = thrown as { cause?: NodeJS.ErrnoException }
  if (cause?.code === 'ENOENT') return []
  throw thrown
}

async function replace(file: string, text: string): Promise<void> {
  const next = `${file}.${randomUUID()}`
  try {
    const handle = await open(next, 'wx', 0o600)
    try {
      await handle.writeFile(text)
      await handle.sync()
    } finally {
      await handle.close()
    }
    await rename(next, file)
  } catch (cause) {
    await rm(next, { force: true })
    throw new HeadraceError('bad_config', `${file} cannot be written`, { cause })
  }
}
