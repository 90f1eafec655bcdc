import assert from 'node:assert/strict'
import { writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { describe, it } from 'node:test'
import { temporaryFolder } from '../support/temporary.ts'
import { modulesImported, packagesImported } from './harness/packages.ts'
import { accuracyOf, accuracyText, regretOf, relativeError } from './harness/predictions.ts'
import { inversions } from './harness/statistics.ts'
import { everyCandidate } from './harness/trials.ts'

describe('judging the planner', () => {
  it('states errors as shares of what was measured', () => {
    assert.equal(relativeError({ predictedSeconds: 1, measuredSeconds: 2 }), 0.5)
    const runs = [1, 2, 4].map((predictedSeconds) => ({ predictedSeconds, measuredSeconds: 2 }))
    assert.deepEqual(accuracyOf(runs), { runs: 3, medianError: 0.5, worstError: 1 })
    assert.match(accuracyText(runs), /3 runs: off by 50.0 % in the median, 100.0 % at worst/)
  })

  it('compares its choice with the best of what was tried', () => {
    const tried = [
      { label: 'solo', seconds: 4 },
      { label: 'chain 2', seconds: 2 },
    ]
    assert.deepEqual(regretOf(3, tried), { best: 'chain 2', ratio: 1.5 })
  })

  it('tries every plan that it may choose', () => {
    const labels = everyCandidate(3).map(({ label }) => label)
    assert.deepEqual(labels, ['solo', 'chain 2', 'chain 3', 'ring 2', 'ring 3'])
    assert.deepEqual(
      everyCandidate(1).map(({ label }) => label),
      ['solo'],
    )
  })

  it('counts pairs out of order', () => {
    assert.equal(inversions([1, 2, 3]), 0)
    assert.equal(inversions([3, 2, 1]), 3)
    assert.equal(inversions([1, 3, 2]), 1)
  })
})

describe('packing', () => {
  it('finds the packages that a module imports', () => {
    const source =
      "import OpenAI from 'openai';\nimport 'yargs/helpers';\nimport x from './own.js';\nimport { y } from 'node:fs'\nawait import('@scope/name/part')"
    assert.deepEqual(packagesImported(source), ['openai', 'yargs', '@scope/name'])
  })

  it('follows imports from module to module, in a circle too', async () => {
    await using folder = await temporaryFolder()
    const [a, b, c] = ['a.js', 'b.js', 'c.js'].map((name) => join(folder.path, name)) as [string, string, string]
    await writeFile(a, "import { x } from './b.js'\nimport y from 'openai'")
    await writeFile(b, "export { z } from './c.js'\nimport './a.js'")
    await writeFile(c, '')
    assert.deepEqual(modulesImported([a]).sort(), [a, b, c])
  })
})
