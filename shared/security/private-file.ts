import { randomUUID } from 'node:crypto'
import { mkdir, open, readFile, rename, rm, stat } from 'node:fs/promises'
import { dirname } from 'node:path'
import type { z } from 'zod'
import { HeadraceError } from '../errors.ts'

/** Small files that hold secrets or decisions: readable by their owner alone, replaced whole or not at all. */

const MOST_BYTES = 1 << 20

export async function makePrivateFolder(path: string): Promise<void> {
  await mkdir(path, { recursive: true, mode: 0o700 }).catch((cause: Error) => {
    throw new HeadraceError('state_failed', `cannot make the folder ${path}: ${cause.message}`, { cause })
  })
}

/** Resolves when the file would survive a loss of power. */
export async function writePrivate(path: string, text: string): Promise<void> {
  const temporary = `${path}.${randomUUID()}`
  try {
    await writeNew(temporary, text)
    await rename(temporary, path)
    await syncFolder(dirname(path))
  } catch (cause) {
    await rm(temporary, { force: true })
    throw new HeadraceError('state_failed', `cannot write ${path}: ${messageOf(cause)}`, { cause })
  }
}

/** Whether the file is there now and was not before: of all that try at once, one is told so. */
export async function claimPrivate(path: string, text: string): Promise<boolean> {
  try {
    await writeNew(path, text)
    await syncFolder(dirname(path))
    return true
  } catch (cause) {
    if (codeOf(cause) === 'EEXIST') return false
    throw new HeadraceError('state_failed', `cannot write ${path}: ${messageOf(cause)}`, { cause })
  }
}

/** The file's JSON by its schema; `undefined` if there is no such file. */
export async function readPrivate<T>(path: string, schema: z.ZodType<T>): Promise<T | undefined> {
  let text: string
  try {
    const { size, mode } = await stat(path)
    if (size > MOST_BYTES) throw new Error('it is too long')
    if (process.platform !== 'win32' && (mode & 0o077) !== 0)
      throw new Error('others may read or write it; it should have mode 600')
    text = await readFile(path, 'utf8')
  } catch (cause) {
    if (codeOf(cause) === 'ENOENT') return undefined
    throw new HeadraceError('state_failed', `cannot use ${path}: ${messageOf(cause)}`, { cause })
  }
  try {
    return schema.parse(JSON.parse(text))
  } catch (cause) {
    throw new HeadraceError('state_failed', `${path} is not what Headrace wrote there`, { cause })
  }
}

async function writeNew(path: string, text: string): Promise<void> {
  const file = await open(path, 'wx', 0o600)
  try {
    await file.writeFile(text)
    await file.sync()
  } finally {
    await file.close()
  }
}

async function syncFolder(path: string): Promise<void> {
  // Windows opens no folders; there a rename is as durable as it gets.
  if (process.platform === 'win32') return
  const folder = await open(path, 'r')
  try {
    await folder.sync()
  } finally {
    await folder.close()
  }
}

const codeOf = (thrown: unknown): unknown => (thrown instanceof Error && 'code' in thrown ? thrown.code : undefined)
const messageOf = (thrown: unknown): string => (thrown instanceof Error ? thrown.message : String(thrown))
