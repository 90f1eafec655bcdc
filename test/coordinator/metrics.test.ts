import assert from 'node:assert/strict'
import { describe, it } from 'node:test'
import { createCoordinatorMetrics } from '../../coordinator/metrics.ts'
import { HeadraceError } from '../../shared/errors.ts'
import { aborted, startApi, tokenizer } from '../support/api.ts'
import { chainPlan, failsAfter, hangsAfter, planned, reportOf, writes } from '../support/scripted-runs.ts'

const CHAT = '/v1/chat/completions'
const ask = { messages: [{ role: 'user', content: 'Q' }] }
const PROMPT_TOKENS = 13

/** The samples of the text format: `name{labels}` to value. */
async function scrape(url: string): Promise<Map<string, number>> {
  const response = await fetch(`${url}/metrics`)
  assert.match(response.headers.get('content-type') ?? '', /^text\/plain; version=0\.0\.4/)
  const lines = (await response.text()).split('\n').filter((line) => line !== '' && !line.startsWith('#'))
  return new Map(lines.map((line) => [line.slice(0, line.lastIndexOf(' ')), Number(line.slice(line.lastIndexOf(' ')))]))
}

describe('the metrics of a coordinator', () => {
  it('follow the conventions for names', async () => {
    const { registry } = createCoordinatorMetrics({ version: '0.0.0', model: 'm' })
    const metrics = (await registry.getMetricsAsJSON()).filter(({ name }) => name.startsWith('headrace_'))
    assert.ok(metrics.length > 20)
    for (const { name, type, help } of metrics) {
      assert.match(name, /^headrace_[a-z_]+$/)
      assert.equal(String(type) === 'counter', name.endsWith('_total'), name)
      assert.doesNotMatch(name, /_(ms|mb|percent)(_|$)/)
      assert.ok(help.length > 0)
    }
  })

  it('are all there before anything happened', async () => {
    await using api = await startApi()
    const samples = await scrape(api.url)
    const zero = [
      'requests_total{status="finished",strategy="chain"}',
      'requests_total{status="refused",strategy="none"}',
      'prompt_tokens_total{source="cached"}',
      'generation_tokens_total',
      'time_to_first_token_seconds_count',
      'prefill_seconds_count{strategy="ring"}',
      'prefill_seconds_bucket{le="7680",strategy="solo"}',
      'queue_seconds_count',
      'phase_seconds_count{phase="wait"}',
      'prefill_imbalance_ratio_count',
      'split_decisions_total{strategy="solo",reason="compute"}',
      'predicted_ttft_error_ratio_count',
      'workers{role="prefill",state="lost"}',
      'worker_disconnects_total{reason="silent"}',
      'joins_refused_total{code="fingerprint_mismatch"}',
      'http_requests_total{route="/v1/chat/completions",method="POST",status="200"}',
      'http_request_seconds_count{route="/v1/plan"}',
    ]
    for (const name of zero) assert.equal(samples.get(`headrace_${name}`), 0, name)
    assert.equal(samples.get(`headrace_build_info{version="0.0.0",node="${process.version}",model="logbook-7m"}`), 1)
  })

  it('show the cluster as it is when they are read', async () => {
    await using api = await startApi()
    const samples = await scrape(api.url)
    assert.equal(samples.get('headrace_cluster_ready'), 1)
    assert.equal(samples.get('headrace_requests_running'), 1)
    assert.equal(samples.get('headrace_requests_waiting'), 2)
    assert.equal(samples.get('headrace_workers{role="prefill",state="ready"}'), 1)
    assert.equal(samples.get('headrace_worker_speed_tokens_per_second{worker="w1"}'), 4096 / 8)
    assert.equal(samples.get('headrace_link_rtt_seconds{worker="w1",peer="coordinator"}'), 0.001)
    assert.equal(samples.get('headrace_link_rtt_seconds{worker="w1",peer="d1"}'), 0.0005)
    assert.equal(samples.get('headrace_link_bytes_per_second{worker="w1",peer="d1"}'), 1e9)
    api.runs.notReady = new HeadraceError('no_workers', 'nobody')
    assert.equal((await scrape(api.url)).get('headrace_cluster_ready'), 0)
    assert.equal((await scrape(api.url)).get('headrace_workers{role="prefill",state="ready"}'), 1)
  })
})

describe('a run', () => {
  it('that finishes is counted with its tokens, times and bytes', async () => {
    const tokens = [...tokenizer.encode('on day 18'), 4]
    await using api = await startApi(writes(tokens))
    await api.post(CHAT, { ...ask, headrace: { strategy: 'chain' } })
    const samples = await scrape(api.url)
    const expected = {
      'requests_total{status="finished",strategy="chain"}': 1,
      'prompt_tokens_total{source="computed"}': PROMPT_TOKENS,
      generation_tokens_total: tokens.length,
      time_to_first_token_seconds_count: 1,
      'prefill_seconds_count{strategy="chain"}': 1,
      queue_seconds_sum: 0.5,
      'phase_seconds_sum{phase="compute"}': 2,
      'phase_seconds_sum{phase="decode"}': 0.25,
      'phase_seconds_count{phase="tokenize"}': 1,
      prefill_imbalance_ratio_sum: 2 / 1.5,
      'split_decisions_total{strategy="chain",reason="asked"}': 1,
      'link_bytes_total{worker="w1",peer="w2",direction="sent"}': 1000,
    }
    for (const [name, value] of Object.entries(expected)) assert.equal(samples.get(`headrace_${name}`), value, name)
  })

  it('is timed to its first token, and its prediction compared with that', async () => {
    await using api = await startApi()
    api.runs.script = async function* (request) {
      api.clock.advance(0.5)
      yield planned(request.promptTokens.length)
      api.clock.advance(2)
      yield { kind: 'token', index: 0, token: 70 }
    }
    await api.post(CHAT, ask)
    const samples = await scrape(api.url)
    assert.equal(samples.get('headrace_time_to_first_token_seconds_sum'), 2.5)
    assert.equal(samples.get('headrace_prefill_seconds_sum{strategy="chain"}'), 2)
    assert.ok(Math.abs((samples.get('headrace_predicted_ttft_error_ratio_sum') ?? 0) - 0.3) < 1e-9)
  })

  it('that a stop string ends has finished', async () => {
    await using api = await startApi(writes(tokenizer.encode('one two')))
    await api.post(CHAT, { ...ask, stop: ' two' })
    const samples = await scrape(api.url)
    assert.equal(samples.get('headrace_requests_total{status="finished",strategy="chain"}'), 1)
    assert.equal(samples.get('headrace_prompt_tokens_total{source="computed"}'), PROMPT_TOKENS)
  })

  it('that fails, is refused or is left is counted as that', async () => {
    await using api = await startApi(failsAfter(new HeadraceError('worker_lost', 'gone'), planned(PROMPT_TOKENS)))
    await api.post(CHAT, ask)
    api.runs.script = failsAfter(new HeadraceError('queue_full', 'full'))
    await api.post(CHAT, ask)
    const client = new AbortController()
    let answer: Promise<unknown> | undefined
    const signal = await new Promise<AbortSignal>((started) => {
      api.runs.script = (request, runSignal) => {
        started(runSignal)
        return hangsAfter(planned(PROMPT_TOKENS))(request, runSignal)
      }
      answer = api.post(CHAT, ask, client.signal).catch(() => undefined)
    })
    client.abort()
    await answer
    await aborted(signal)
    const samples = await scrape(api.url)
    for (const [status, strategy] of [
      ['failed', 'chain'],
      ['refused', 'none'],
      ['cancelled', 'chain'],
    ])
      assert.equal(samples.get(`headrace_requests_total{status="${status}",strategy="${strategy}"}`), 1, status)
    assert.equal(
      samples.get('headrace_http_requests_total{route="/v1/chat/completions",method="POST",status="429"}'),
      1,
    )
    assert.equal(
      samples.get('headrace_http_requests_total{route="/v1/chat/completions",method="POST",status="499"}'),
      1,
    )
  })
})

describe('links between workers', () => {
  it('share one series when workers keep coming under new names', async () => {
    await using api = await startApi()
    const plan = chainPlan(PROMPT_TOKENS)
    const worker = reportOf(plan, 1).workers[0]
    assert.ok(worker)
    const sent = Array.from({ length: 2000 }, (_, at) => ({ to: `w${at}`, bytes: 1 }))
    api.runs.script = async function* () {
      yield { kind: 'token', index: 0, token: 70 }
      yield { kind: 'finished', reason: 'stop', report: { ...reportOf(plan, 1), workers: [{ ...worker, sent }] } }
    }
    await api.post(CHAT, ask)
    const samples = await scrape(api.url)
    const links = [...samples.keys()].filter((name) => name.startsWith('headrace_link_bytes_total'))
    assert.equal(links.length, 1025)
    assert.equal(samples.get('headrace_link_bytes_total{worker="other",peer="other",direction="sent"}'), 976)
  })
})

describe('a request', () => {
  it('to no route is counted, but not under the path that the client made up', async () => {
    await using api = await startApi()
    await (await fetch(`${api.url}/made/up?by=me`)).text()
    const samples = await scrape(api.url)
    assert.equal(samples.get('headrace_http_requests_total{route="none",method="GET",status="404"}'), 1)
    assert.doesNotMatch([...samples.keys()].join('\n'), /made/)
  })

  it('leaves one line in the log, without its prompt', async () => {
    await using api = await startApi(writes(tokenizer.encode('answered')))
    await (await api.post(CHAT, { messages: [{ role: 'user', content: 'my secret' }], stream: true })).text()
    await scrape(api.url)
    const line = api.logged
      .map((text) => JSON.parse(text) as Record<string, unknown>)
      .find(({ route }) => route === CHAT)
    assert.equal(line?.['status'], '200')
    assert.doesNotMatch(api.logged.join(''), /secret|answered/)
  })
})
