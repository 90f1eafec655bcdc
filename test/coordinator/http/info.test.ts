import assert from 'node:assert/strict'
import { describe, it } from 'node:test'
import { HeadraceError } from '../../../shared/errors.ts'
import { collect, startApi, tokenizer } from '../../support/api.ts'

type Json = Record<string, unknown>
const getJson = async (url: string) => (await (await fetch(url)).json()) as Json

describe('the models', () => {
  it('are the one that is served, as the official client lists it', async () => {
    await using api = await startApi()
    const models = await collect(await api.openai.models.list())
    assert.deepEqual(
      models.map(({ id }) => id),
      ['logbook-7m'],
    )
    const { created, ...model } = (await getJson(`${api.url}/v1/models/logbook-7m`)) as Json & { created: number }
    assert.ok(Math.abs(created - Date.now() / 1000) < 60)
    assert.deepEqual(model, {
      id: 'logbook-7m',
      object: 'model',
      owned_by: 'local',
      max_model_len: 2048,
      meta: { n_vocab: 4096, n_ctx_train: 2048, n_params: 6_955_264, size: 13_910_360 },
      status: { value: 'loaded' },
    })
  })

  it('say whether they can be served now', async () => {
    await using api = await startApi()
    api.runs.notReady = new HeadraceError('no_workers', 'nobody is there')
    assert.deepEqual((await getJson(`${api.url}/v1/models/logbook-7m`))['status'], { value: 'loading' })
  })

  it('do not include others, whatever their names', async () => {
    await using api = await startApi()
    for (const name of ['other', 'owner/other', 'owner%2Fother', '']) {
      const response = await fetch(`${api.url}/v1/models/${name}`)
      assert.equal(response.status, 404)
      assert.match(await response.text(), /"code":"model_not_found"/)
    }
  })
})

describe('health', () => {
  it('is ok when a prompt would be computed', async () => {
    await using api = await startApi()
    for (const path of ['/health', '/ready', '/live']) assert.deepEqual(await getJson(api.url + path), { status: 'ok' })
  })

  it('is 503 with the reason when it would not; the process lives all the same', async () => {
    await using api = await startApi()
    api.runs.notReady = new HeadraceError('no_decode_node', 'no decode node is ready')
    for (const path of ['/health', '/ready']) {
      const response = await fetch(api.url + path)
      assert.equal(response.status, 503)
      assert.equal(response.headers.get('retry-after'), '5')
      assert.match(await response.text(), /"type":"unavailable_error","param":null,"code":"no_decode_node"/)
    }
    assert.equal((await fetch(`${api.url}/live`)).status, 200)
  })
})

describe('a plan', () => {
  it('is shown with every candidate, before anything runs', async () => {
    await using api = await startApi()
    const exact = { prefix_wire: 'f32', handoff_wire: 'f32' }
    const chain = {
      strategy: 'chain',
      workers: [
        { id: 'w1', spans: [[0, 50]], tokens: 50, compute_seconds: 1, ...exact },
        { id: 'w2', spans: [[50, 100]], tokens: 50, compute_seconds: 1, ...exact },
      ],
      decode: 'd1',
      decode_tokens: 1,
      predicted_ttft_seconds: 1.4,
      bound: 'compute',
      bound_by: 'w1 computes',
    }
    const solo = {
      ...chain,
      strategy: 'solo',
      workers: [{ id: 'w1', spans: [[0, 100]], tokens: 100, compute_seconds: 2.5, ...exact }],
      predicted_ttft_seconds: 2.6,
    }
    assert.deepEqual(await getJson(`${api.url}/v1/plan?prompt_tokens=101&strategy=chain&workers=2`), {
      object: 'plan',
      model: 'logbook-7m',
      prompt_tokens: 101,
      chosen: chain,
      candidates: [chain, solo],
    })
    assert.equal(api.runs.requests.length, 0)
  })

  it('needs a length that fits', async () => {
    await using api = await startApi()
    const refusals = [
      ['', 'prompt_tokens'],
      ['prompt_tokens=x', 'prompt_tokens'],
      ['prompt_tokens=0', 'prompt_tokens'],
      ['prompt_tokens=2049', 'prompt_tokens'],
      ['prompt_tokens=9&strategy=star', 'strategy'],
      ['prompt_tokens=9&workers=0', 'workers'],
      ['prompt_tokens=9&prompt_tokens=8', 'prompt_tokens'],
    ] as const
    for (const [query, param] of refusals) {
      const response = await fetch(`${api.url}/v1/plan?${query}`)
      assert.equal(response.status, 400, query)
      assert.equal(((await response.json()) as { error: Json }).error['param'], param)
    }
  })

  it('is refused by the cluster’s own code', async () => {
    await using api = await startApi()
    api.runs.planError = new HeadraceError('no_workers', 'no prefill worker is ready')
    assert.equal((await fetch(`${api.url}/v1/plan?prompt_tokens=9`)).status, 503)
  })
})

describe('the cluster', () => {
  it('is shown with its workers and load', async () => {
    await using api = await startApi()
    const cluster = await getJson(`${api.url}/v1/cluster`)
    assert.equal(cluster['ready'], true)
    assert.equal(cluster['reason'], null)
    assert.deepEqual(cluster['runs'], { running: 1, waiting: 2 })
    const [first, second] = cluster['workers'] as Json[]
    assert.deepEqual(first, {
      id: 'w1',
      role: 'prefill',
      state: 'ready',
      engine: 'reference',
      precision: 'f32',
      host: 'h1',
      cores: 4,
      threads: 2,
      memory_bytes: 2 ** 30,
      budget_bytes: 2 ** 29,
      free_bytes: 2 ** 28,
      cost: { o: 0, a: 1 / 4096, b: 0 },
      shared_cost: null,
      rtt_seconds: 0.001,
      last_seen_seconds: 0.2,
      runs: 1,
    })
    assert.equal(second?.['cost'], null)
    const link = { from: 'w1', to: 'd1', bytes_per_second: 1e9, rtt_seconds: 0.0005, age_seconds: 30 }
    assert.deepEqual(cluster['links'], [link])
    api.runs.notReady = new HeadraceError('no_workers', 'nobody')
    assert.deepEqual((await getJson(`${api.url}/v1/cluster`))['reason'], { code: 'no_workers', message: 'nobody' })
  })
})

describe('counting tokens', () => {
  it('takes a text or a chat', async () => {
    await using api = await startApi()
    const text = 'Vault K-472'
    const tokens = tokenizer.encode(text)
    const counted = { tokens, count: tokens.length, max_model_len: 2048 }
    for (const body of [{ content: text }, { prompt: text }])
      assert.deepEqual(await (await api.post('/tokenize', body)).json(), counted)
    const chat = (await (await api.post('/tokenize', { messages: [{ role: 'user', content: 'Q' }] })).json()) as Json
    assert.equal(chat['count'], 13)
    assert.deepEqual(await (await api.post('/tokenize', { content: '' })).json(), { ...counted, tokens: [], count: 0 })
  })

  it('goes back to the text', async () => {
    await using api = await startApi()
    const response = await api.post('/detokenize', { tokens: tokenizer.encode('naïve 🚢<|eot_id|>') })
    assert.deepEqual(await response.json(), { content: 'naïve 🚢<|eot_id|>', prompt: 'naïve 🚢<|eot_id|>' })
  })
})
