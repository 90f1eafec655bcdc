import { writeFileSync } from 'node:fs'
import { mkdir, readdir, readFile, rm } from 'node:fs/promises'
import { dirname, join } from 'node:path'
import type { Clock } from '../clock.ts'

/** Marks of processes in the cache's folder: who fetches a model, who uses one. A mark of a dead process is none. */

const LOOK_SECONDS = 0.2

/**
 * Resolves once this process alone has the lock; what it resolves to gives it back. Two that find a dead one's lock in the
 * same instant may both take it: what they write is checked by its hash, so the loser only works in vain.
 */
export async function takeLock(
  file: string,
  clock: Clock,
  signal: AbortSignal,
  onWait: () => void,
): Promise<() => Promise<void>> {
  await mkdir(dirname(file), { recursive: true })
  for (let looks = 0; !create(file); looks++) {
    const holder = await readFile(file, 'utf8').catch(() => undefined) // given back meanwhile
    if (holder === undefined) continue
    // Without a name its maker is just writing it, or died in that very moment.
    if (holder === '' ? looks > 1 : !isAlive(Number(holder))) {
      await rm(file, { force: true })
      continue
    }
    if (looks === 0) onWait()
    // What is waited for lives in another process, which can only be asked.
    await clock.sleep(LOOK_SECONDS, signal)
  }
  return () => rm(file, { force: true })
}

/** Says that this process uses `key`; what it resolves to takes that back. */
export async function lease(folder: string, key: string): Promise<() => Promise<void>> {
  await mkdir(folder, { recursive: true })
  await leased(folder) // clears away what dead ones have left
  const file = join(folder, `${key}.${process.pid}`)
  create(file)
  return () => rm(file, { force: true })
}

/** The keys that living processes use; marks of dead ones are cleared away. */
export async function leased(folder: string): Promise<Set<string>> {
  const names = await readdir(folder).catch(() => []) // no folder: nobody ever used one
  const keys = new Set<string>()
  for (const name of names) {
    const dot = name.lastIndexOf('.')
    if (isAlive(Number(name.slice(dot + 1)))) keys.add(name.slice(0, dot))
    else await rm(join(folder, name), { force: true })
  }
  return keys
}

function create(file: string): boolean {
  try {
    writeFileSync(file, String(process.pid), { flag: 'wx' })
    return true
  } catch (thrown) {
    if ((thrown as NodeJS.ErrnoException).code === 'EEXIST') return false
    throw thrown
  }
}

function isAlive(pid: number): boolean {
  if (!Number.isInteger(pid) || pid < 1) return false
  try {
    process.kill(pid, 0)
    return true
  } catch (thrown) {
    // Of another user: it cannot be asked, so it is there.
    return (thrown as NodeJS.ErrnoException).code === 'EPERM'
  }
}
