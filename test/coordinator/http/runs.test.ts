import assert from 'node:assert/strict'
import { describe, it } from 'node:test'
import type { ChromeTrace } from '../../../coordinator/trace/chrome.ts'
import { startApi } from '../../support/api.ts'
import { checkedTracks } from '../../support/chrome-trace.ts'
import { tracedReport } from '../../support/sample-trace.ts'

describe('finished runs', () => {
  it('are listed, latest first', async () => {
    await using api = await startApi()
    assert.deepEqual(await (await fetch(`${api.url}/v1/runs`)).json(), { object: 'list', data: [] })
    api.store.add({ created: 1_700_000_000, report: tracedReport('a') })
    api.store.add({ created: 1_700_000_009, report: tracedReport('b') })
    const { data } = (await (await fetch(`${api.url}/v1/runs`)).json()) as { data: { id: string }[] }
    assert.deepEqual(
      data.map(({ id }) => id),
      ['b', 'a'],
    )
    assert.deepEqual(data[1], {
      id: 'a',
      object: 'run',
      created: 1_700_000_000,
      prompt_tokens: 101,
      completion_tokens: 3,
      strategy: 'chain',
      workers: ['w1', 'w2'],
      queue_seconds: 0.5,
      ttft_seconds: 2.5,
      bottleneck: "w2's arithmetic (2.00 s of 2.00 s)",
    })
  })

  it('give their traces for Perfetto', async () => {
    await using api = await startApi()
    api.store.add({ created: 1, report: tracedReport('a') })
    const answer = await fetch(`${api.url}/v1/runs/a/trace`)
    assert.match(answer.headers.get('content-type') ?? '', /^application\/json/)
    const trace = (await answer.json()) as ChromeTrace
    assert.deepEqual(Object.keys(trace).sort(), ['displayTimeUnit', 'traceEvents'])
    assert.equal(checkedTracks(trace).size, 10)
  })

  it('that are not kept are 404 by code', async () => {
    await using api = await startApi()
    for (const id of ['other', '%2F', 'x'.repeat(90)]) {
      const answer = await fetch(`${api.url}/v1/runs/${id}/trace`)
      assert.equal(answer.status, 404)
      assert.match(await answer.text(), /"code":"run_not_found"/)
    }
  })

  it('are named in the answer, with their bottleneck', async () => {
    await using api = await startApi()
    const answer = await api.post('/v1/completions', { prompt: 'Vault K-472', max_tokens: 1 })
    const { prefill } = (await answer.json()) as { prefill: Record<string, unknown> }
    assert.equal(prefill['run'], 'run-1')
    assert.equal(prefill['bottleneck'], "w2's arithmetic (2.00 s of 2.00 s)")
  })
})
