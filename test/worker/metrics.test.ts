import assert from 'node:assert/strict'
import { it } from 'node:test'
import { WorkerMetrics } from '../../worker/metrics.ts'

it('peers that come and go under new names share a series after the 256th', async () => {
  const metrics = new WorkerMetrics({ version: '0', role: 'decode', engine: 'reference' })
  for (let i = 0; i < 300; i++) metrics.linkBytes.inc({ direction: 'received', peer: `w${i}` }, 10)
  metrics.linkBytes.inc({ direction: 'received', peer: 'w7' }, 5)
  const lines = (await metrics.text()).split('\n').filter((line) => line.startsWith('headrace_link_bytes_total{'))
  const value = (peer: string) =>
    lines.find((line) => line.includes(`direction="received",peer="${peer}"`))?.split(' ')[1]
  assert.equal(value('w255'), '10')
  assert.equal(value('w256'), undefined)
  assert.equal(value('w7'), '15')
  assert.equal(value('other'), '440')
  assert.ok(lines.length < 262)
})
