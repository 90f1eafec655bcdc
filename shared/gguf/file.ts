import { type FileHandle, open, stat } from 'node:fs/promises'
import { basename, dirname, join } from 'node:path'
import { HeadraceError } from '../errors.ts'
import { Incomplete, malformed } from './cursor.ts'
import { type GgufHeader, parseHeader } from './header.ts'
import { Metadata } from './metadata.ts'
import { splitName, splitNames } from './names.ts'

/** Most headers are a vocabulary and its merges: a few MiB. */
const FIRST_BYTES = 1 << 20
const MAX_HEADER_BYTES = 512 << 20
const MAX_PARTS = 4096

/** Reads as much of the file as its header takes, at least doubling, so that parsing again costs no more than once more. */
export async function readHeader(handle: FileHandle, file: string): Promise<GgufHeader> {
  const { size } = await handle.stat()
  const limit = Math.min(size, MAX_HEADER_BYTES)
  for (let wanted = Math.min(limit, FIRST_BYTES); ; ) {
    const bytes = new Uint8Array(wanted)
    await readExactly(handle, bytes, 0, file)
    try {
      return parseHeader(bytes, size, file)
    } catch (thrown) {
      if (!(thrown instanceof Incomplete)) throw thrown
      if (thrown.bytes > limit) throw malformed(file, `its header is longer than ${limit} bytes`)
      wanted = Math.min(limit, Math.max(2 * wanted, thrown.bytes))
    }
  }
}

/** Fills `into` from `position` on, or throws: a file that ends before it should is `model_bad_weights`. */
export async function readExactly(handle: FileHandle, into: Uint8Array, position: number, file: string): Promise<void> {
  let done = 0
  while (done < into.byteLength) {
    const { bytesRead } = await handle.read(into, done, into.byteLength - done, position + done)
    if (bytesRead === 0) throw malformed(file, `it ends at ${position + done}`)
    done += bytesRead
  }
}

/** The header of one file. Cannot be opened: `model_incomplete`. */
export async function headerOf(file: string): Promise<GgufHeader> {
  const handle = await open(file).catch((cause: unknown) => {
    throw new HeadraceError('model_incomplete', `${file} cannot be opened`, {
      cause,
      details: { file: basename(file) },
    })
  })
  try {
    return await readHeader(handle, file)
  } finally {
    await handle.close()
  }
}

async function needed(file: string): Promise<void> {
  const found = await stat(file).catch(() => undefined) // unreadable is treated as absent
  if (found?.isFile() !== true)
    throw new HeadraceError('model_incomplete', `${file} is missing`, { details: { file: basename(file) } })
}

/** All files of a model, from its first or only one: `NAME-00001-of-00003.gguf` has two others beside it. */
export async function partsOf(file: string): Promise<{ first: GgufHeader; files: readonly string[] }> {
  const first = await headerOf(file)
  const metadata = new Metadata(first.metadata, file)
  const count = metadata.number('split.count') ?? 1
  if (!(count >= 0 && count <= MAX_PARTS)) throw malformed(file, `it is one of ${count} files`)
  if (count <= 1) return { first, files: [file] }
  const named = splitName(basename(file))
  if (named === undefined || named.count !== count)
    throw new HeadraceError('model_incomplete', `${file} is one of ${count} files, but is not named so`)
  if (metadata.number('split.no') !== 0 || named.part !== 1)
    throw new HeadraceError('model_incomplete', `${file} is not the first of its ${count} files: give that one`)
  const files = splitNames(named).map((name) => join(dirname(file), name))
  for (const part of files) await needed(part)
  return { first, files }
}
