import assert from 'node:assert/strict'
import { readdir, readFile } from 'node:fs/promises'
import { join } from 'node:path'
import { describe, it } from 'node:test'
import { root } from '../support/paths.ts'
import { fuzz } from './fuzz.ts'
import { targetOf } from './targets.ts'

const INPUTS = 50_000
const SEED = 20_261_123

describe(`${INPUTS} hostile inputs`, () => {
  it('are read, or refused by a code, in bounded memory and without an end of the process', async () => {
    const swept = await fuzz({ inputs: INPUTS, seed: SEED, processes: 2 })
    assert.deepEqual(
      swept.flatMap(({ findings }) => findings),
      [],
    )
    for (const { target, inputs, outcomes } of swept) {
      const read = (outcomes['ok'] ?? 0) / inputs
      assert.ok(read > 0.01 && read < 0.95, `${target} read ${read}: its inputs are too hostile or too tame`)
    }
  })
})

/** Inputs that broke the rules once, by the target that they broke. */
describe('every input that was found', async () => {
  const corpus = join(root, 'test', 'corpus')
  for (const target of await readdir(corpus))
    for (const file of await readdir(join(corpus, target)))
      it(`is answered by ${target}: ${file}`, async () => {
        const { take, close } = await targetOf(target).open()
        assert.equal(typeof (await take(await readFile(join(corpus, target, file)))), 'string')
        await close?.()
      })
})
