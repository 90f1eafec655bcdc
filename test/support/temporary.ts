import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'

/** A folder that `await using` removes. */
export async function temporaryFolder() {
  const path = await mkdtemp(join(tmpdir(), 'headrace-test-'))
  return { path, [Symbol.asyncDispose]: () => rm(path, { recursive: true, force: true }) }
}
