import assert from 'node:assert/strict'
import { existsSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import { describe, it } from 'node:test'
import { createCoordinatorMetrics } from '../coordinator/metrics.ts'
import { ERRORS } from '../shared/errors.ts'
import { WorkerMetrics } from '../worker/metrics.ts'
import { root } from './support/paths.ts'

/** The README says what is so. */

const readme = readFileSync(join(root, 'README.md'), 'utf8')

describe('the README', () => {
  it('names only files that exist', () => {
    const files = [...readme.matchAll(/`((?:shared|coordinator|worker|deploy|test)\/[\w./-]*)`/g)].map(
      (match) => match[1]!,
    )
    assert.ok(files.length > 15)
    for (const file of files) assert.ok(existsSync(join(root, file)), file)
  })

  it('has the error table that the code has', () => {
    const rows = Object.entries(ERRORS).map(([code, { status, help }]) => `| \`${code}\` | ${status} | ${help} |`)
    const table = ['| code | HTTP status | meaning |', '|---|---|---|', ...rows].join('\n')
    assert.ok(readme.includes(`-->\n${table}\n<!-- /errors -->`), `the table should be:\n${table}`)
  })

  it('names metrics that exist, with their labels', async () => {
    const coordinator = createCoordinatorMetrics({ version: '0', model: 'm' }).registry.metrics()
    const worker = new WorkerMetrics({ version: '0', role: 'prefill', engine: 'onnx' }).text()
    const exported = `${await coordinator}\n${await worker}`
    const names = [...readme.matchAll(/`(headrace_\w+)(?:\{[\w,]+\})?`/g)].map((match) => match[1]!)
    assert.ok(names.length > 25)
    for (const name of names) assert.ok(exported.includes(`# TYPE ${name} `), name)
  })

  it('lists every dependency with a reason', () => {
    const { dependencies, peerDependencies } = JSON.parse(readFileSync(join(root, 'package.json'), 'utf8'))
    for (const name of Object.keys({ ...dependencies, ...peerDependencies }))
      assert.ok(readme.includes(`\`${name}\``), name)
  })

  it('has a glossary of at most 20 words', () => {
    const words = readme.split('## Words')[1]!.split('\n## ')[0]!.match(/^\| /gm)
    assert.ok(words !== null && words.length - 1 <= 20)
  })
})
