import assert from 'node:assert/strict'
import { once } from 'node:events'
import { connect } from 'node:net'
import { describe, it } from 'node:test'
import fc from 'fast-check'
import OpenAI from 'openai'
import { ERRORS, HeadraceError, isErrorCode } from '../../../shared/errors.ts'
import { startApi, tokenizer } from '../../support/api.ts'
import { failsAfter, writes } from '../../support/scripted-runs.ts'

const CHAT = '/v1/chat/completions'
const TEXT = '/v1/completions'
const ask = { messages: [{ role: 'user', content: 'Q' }] }

interface ErrorAnswer {
  readonly error: { message: string; type: string; param: string | null; code: string }
}

async function errorOf(response: Response) {
  const { error } = (await response.json()) as ErrorAnswer
  assert.ok(isErrorCode(error.code), `${error.code} is in the list`)
  assert.equal(response.status, ERRORS[error.code].status)
  assert.equal(error.type, ERRORS[error.code].type)
  return error
}

/** What a client may get wrong: path, body, the code and the parameter that the answer names, a part of its message. */
const REFUSALS: readonly [path: string, body: unknown, code: string, param: string | null, says: RegExp][] = [
  [CHAT, '{"messages": [', 'invalid_json', null, /not valid JSON/],
  [CHAT, '', 'invalid_json', null, /not valid JSON/],
  [CHAT, '{"__proto__": {}, "messages": []}', 'invalid_json', null, /not valid JSON/],
  [CHAT, [], 'invalid_request', null, /malformed/],
  [CHAT, {}, 'invalid_request', 'messages', /messages/],
  [CHAT, { messages: [] }, 'empty_prompt', 'messages', /no tokens/],
  [CHAT, { messages: [{ role: 'pirate', content: 'x' }] }, 'invalid_request', 'messages.0', /needs a role/],
  [
    CHAT,
    { messages: [{ role: 'user', content: [{ type: 'image_url', image_url: {} }] }] },
    'invalid_request',
    'messages.0',
    /text parts/,
  ],
  [
    CHAT,
    { messages: [{ role: 'assistant', tool_calls: [{}] }] },
    'invalid_request',
    'messages.0.tool_calls',
    /not supported/,
  ],
  [
    CHAT,
    { ...ask, headrace: { workers: 3, shares: [1, 1] } },
    'invalid_request',
    'headrace.shares',
    /one share for each/,
  ],
  [CHAT, { ...ask, model: 'gpt-9' }, 'model_not_found', 'model', /`gpt-9` is not served here; `logbook-7m` is/],
  [CHAT, { ...ask, n: 2 }, 'invalid_request', 'n', /not supported \(only 1\)/],
  [CHAT, { ...ask, tools: [{ type: 'function' }] }, 'invalid_request', 'tools', /not supported/],
  [CHAT, { ...ask, tool_choice: 'required' }, 'invalid_request', 'tool_choice', /not supported/],
  [CHAT, { ...ask, response_format: { type: 'json_object' } }, 'invalid_request', 'response_format', /not supported/],
  [CHAT, { ...ask, presence_penalty: 0.5 }, 'invalid_request', 'presence_penalty', /only 0/],
  [CHAT, { ...ask, logit_bias: { 70: 1 } }, 'invalid_request', 'logit_bias', /not supported/],
  [CHAT, { ...ask, modalities: ['audio'] }, 'invalid_request', 'modalities', /only/],
  [CHAT, { ...ask, temperature: -1 }, 'invalid_request', 'temperature', /temperature/],
  [CHAT, { ...ask, temperature: 'hot' }, 'invalid_request', 'temperature', /number/],
  [CHAT, { ...ask, top_p: 0 }, 'invalid_request', 'top_p', /top_p/],
  [CHAT, { ...ask, max_tokens: 0 }, 'invalid_request', 'max_tokens', /max_tokens/],
  [CHAT, { ...ask, max_tokens: 1.5 }, 'invalid_request', 'max_tokens', /int/],
  [CHAT, { ...ask, seed: 1.5 }, 'invalid_request', 'seed', /int/],
  [CHAT, { ...ask, stop: Array(17).fill('x') }, 'invalid_request', 'stop', /stop/],
  [CHAT, { ...ask, stop: '' }, 'invalid_request', 'stop', /stop/],
  [CHAT, { ...ask, stop: '\ud83d' }, 'invalid_request', 'stop', /stop/],
  [CHAT, { ...ask, top_logprobs: 3 }, 'invalid_request', 'top_logprobs', /needs `logprobs: true`/],
  [CHAT, { ...ask, logprobs: true, top_logprobs: 21 }, 'invalid_request', 'top_logprobs', /20/],
  [CHAT, { ...ask, headrace: { strategy: 'star' } }, 'invalid_request', 'headrace.strategy', /solo/],
  [CHAT, { ...ask, headrace: { workers: 0 } }, 'invalid_request', 'headrace.workers', /1/],
  [
    CHAT,
    { ...ask, max_tokens: 2047 },
    'context_length_exceeded',
    'max_tokens',
    /2048 tokens; your messages have 13 and max_tokens asks for 2047 more \(2060 in total\)/,
  ],
  [CHAT, { ...ask, max_completion_tokens: 2047 }, 'context_length_exceeded', 'max_completion_tokens', /2047/],
  [
    CHAT,
    { messages: [{ role: 'user', content: 'a'.repeat(2100) }] },
    'context_length_exceeded',
    'messages',
    /2048 tokens; your messages have 2112/,
  ],
  [
    CHAT,
    { messages: [{ role: 'user', content: 'a'.repeat(200_000) }] },
    'context_length_exceeded',
    'messages',
    /2048 tokens; your messages have at least \d+/,
  ],
  [TEXT, {}, 'invalid_request', 'prompt', /one string or one array of token ids/],
  [TEXT, { prompt: '' }, 'empty_prompt', 'prompt', /no tokens/],
  [TEXT, { prompt: [] }, 'empty_prompt', 'prompt', /no tokens/],
  [TEXT, { prompt: ['a', 'b'] }, 'invalid_request', 'prompt', /one string/],
  [TEXT, { prompt: [4096] }, 'invalid_request', 'prompt', /4096 is outside the vocabulary of 4096/],
  [TEXT, { prompt: [-1] }, 'invalid_request', 'prompt.0', />=0/],
  [TEXT, { prompt: Array(2048).fill(70) }, 'context_length_exceeded', 'prompt', /your prompt has 2048\./],
  [TEXT, { prompt: 'a', best_of: 3 }, 'invalid_request', 'best_of', /only 1/],
  [TEXT, { prompt: 'a', suffix: 'b' }, 'invalid_request', 'suffix', /not supported/],
  [TEXT, { prompt: 'a', echo: true, logprobs: 1 }, 'invalid_request', 'logprobs', /echo/],
  ['/tokenize', {}, 'invalid_request', null, /exactly one of/],
  ['/tokenize', { content: 'a', prompt: 'b' }, 'invalid_request', null, /exactly one of/],
  ['/detokenize', { tokens: [9999] }, 'invalid_request', 'tokens', /9999/],
  ['/detokenize', {}, 'invalid_request', 'tokens', /tokens/],
]

describe('a request that is refused', () => {
  it('says why, in the shape of OpenAI’s errors, and costs nothing', async () => {
    await using api = await startApi()
    for (const [path, body, code, param, says] of REFUSALS)
      for (const stream of typeof body === 'object' && !Array.isArray(body) ? [false, true] : [false]) {
        const sent = stream ? { ...(body as object), stream } : body
        const error = await errorOf(await api.post(path, sent))
        const about = JSON.stringify(body).slice(0, 80)
        assert.equal(error.code, code, about)
        assert.equal(error.param, param, about)
        assert.match(error.message, says)
      }
    assert.equal(api.runs.requests.length, 0)
  })

  it('raises the official client’s own errors', async () => {
    await using api = await startApi()
    const { completions } = api.openai.chat
    await assert.rejects(completions.create({ model: 'gpt-9', messages: [] }), OpenAI.NotFoundError)
    await assert.rejects(
      completions.create({ model: 'logbook-7m', messages: [{ role: 'user', content: 'Q' }], n: 2 }),
      (thrown) => thrown instanceof OpenAI.BadRequestError && thrown.param === 'n' && thrown.code === 'invalid_request',
    )
  })

  it('is answered for a body that is not declared as JSON', async () => {
    await using api = await startApi()
    for (const type of ['text/plain', 'application/x-www-form-urlencoded']) {
      const response = await fetch(api.url + CHAT, { method: 'POST', headers: { 'content-type': type }, body: '{}' })
      assert.match((await errorOf(response)).message, /content-type: application\/json/)
    }
    assert.equal((await errorOf(await fetch(api.url + CHAT, { method: 'POST' }))).code, 'invalid_request')
  })

  it('is answered for a body above the limit', async () => {
    await using api = await startApi(writes([]), { bodyLimitBytes: 1000 })
    const error = await errorOf(await api.post(CHAT, { ...ask, padding: 'x'.repeat(1000) }))
    assert.equal(error.code, 'body_too_large')
  })
})

describe('a token limit that was not given', () => {
  it('is what the context has left', async () => {
    await using api = await startApi(writes([4]))
    await api.post(TEXT, { prompt: Array(2000).fill(70) })
    assert.equal(api.runs.requests[0]?.maxTokens, 48)
    await api.post(TEXT, { prompt: Array(2047).fill(70), max_tokens: 1 })
    assert.equal(api.runs.requests[1]?.maxTokens, 1)
  })
})

describe('a cluster that cannot serve', () => {
  for (const code of ['no_workers', 'no_decode_node'] as const)
    it(`answers ${code} with a time to retry, also to a stream`, async () => {
      await using api = await startApi()
      api.runs.notReady = new HeadraceError(code, 'nobody is there')
      for (const stream of [false, true]) {
        const response = await api.post(CHAT, { ...ask, stream })
        assert.equal(response.status, 503)
        assert.equal(response.headers.get('retry-after'), '5')
        assert.equal((await errorOf(response)).code, code)
      }
      assert.equal(api.runs.requests.length, 0)
    })

  it('answers a full queue with a time to retry', async () => {
    await using api = await startApi(failsAfter(new HeadraceError('queue_full', 'too many prompts wait')))
    const response = await api.post(CHAT, ask)
    assert.equal(response.status, 429)
    assert.equal(response.headers.get('retry-after'), '5')
    await assert.rejects(
      api.openai.chat.completions.create({ model: 'logbook-7m', messages: [{ role: 'user', content: 'Q' }] }),
      OpenAI.RateLimitError,
    )
  })

  it('refuses a plan that cannot be before anything is computed', async () => {
    await using api = await startApi()
    api.runs.planError = new HeadraceError('plan_impossible', 'there are no 9 workers')
    const response = await api.post(CHAT, { ...ask, stream: true, headrace: { workers: 9 } })
    assert.equal((await errorOf(response)).code, 'plan_impossible')
    assert.equal(api.runs.requests.length, 0)
  })

  it('answers a failed run by its code, and a defect without its inside', async () => {
    await using api = await startApi(failsAfter(new HeadraceError('worker_lost', 'worker w2 vanished')))
    const response = await api.post(CHAT, ask)
    assert.equal(response.status, 502)
    assert.equal((await errorOf(response)).message, 'worker w2 vanished')
    api.runs.script = failsAfter(new TypeError('secret of the house'))
    const error = await errorOf(await api.post(CHAT, ask))
    assert.equal(error.code, 'internal')
    assert.doesNotMatch(error.message, /secret/)
  })
})

describe('a route', () => {
  it('that does not exist is not_found', async () => {
    await using api = await startApi()
    for (const path of ['/', '/v1/nothing', '/v1/chat/completions/x', '/%zz?a=b'])
      assert.ok(['not_found', 'invalid_request'].includes((await errorOf(await fetch(api.url + path))).code), path)
    assert.equal((await errorOf(await api.post('/v1/embeddings', {}))).code, 'not_found')
  })

  it('that exists for another method names the ones it has', async () => {
    await using api = await startApi()
    const wrong = await fetch(api.url + CHAT)
    assert.equal(wrong.headers.get('allow'), 'POST')
    assert.equal((await errorOf(wrong)).code, 'method_not_allowed')
    const post = await api.post('/v1/models', '{not json')
    assert.equal(post.headers.get('allow'), 'GET, HEAD')
    assert.equal((await errorOf(post)).code, 'method_not_allowed')
  })
})

describe('bytes that are no HTTP', () => {
  it('are answered in the same shape, and the connection closes', async () => {
    await using api = await startApi()
    const socket = connect(api.port, '127.0.0.1').setEncoding('utf8')
    socket.write('HELLO\r\n\r\n')
    const [answer] = (await once(socket, 'data')) as [string]
    assert.match(answer, /^HTTP\/1\.1 400 /)
    assert.match(answer, /"code":"invalid_request"/)
    if (!socket.closed) await once(socket, 'close')
  })
})

describe('any JSON at all', () => {
  it('gets an answer or a coded refusal, never a defect', async () => {
    await using api = await startApi(writes(tokenizer.encode('ok')))
    const anyValue = fc.jsonValue({ maxDepth: 3 })
    const fields = ['messages', 'prompt', 'model', 'stop', 'stream_options', 'headrace', 'max_tokens', 'temperature']
    const more = ['logprobs', 'response_format', 'tools', 'n', 'seed', 'top_logprobs', 'modalities', 'echo', 'top_k']
    const body = fc.oneof(
      anyValue,
      fc.dictionary(fc.constantFrom(...fields, ...more), anyValue),
      fc.dictionary(fc.constantFrom(...more), anyValue).map((extra) => ({ ...ask, prompt: 'Q', ...extra })),
    )
    const path = fc.constantFrom(CHAT, TEXT, '/tokenize', '/detokenize')
    await fc.assert(
      fc.asyncProperty(path, body, async (to, value) => {
        const response = await api.post(to, JSON.stringify(value))
        assert.ok(response.status === 200 || response.status === 400 || response.status === 404, `${response.status}`)
        if (response.status === 200) await response.text()
        else await errorOf(response)
      }),
      { seed: 20_260_802, numRuns: 400 },
    )
  })

  it('and any bytes at all too', async () => {
    await using api = await startApi(writes([]))
    await fc.assert(
      fc.asyncProperty(fc.string({ maxLength: 60 }), async (text) => {
        const response = await api.post(CHAT, `{${text}`)
        assert.equal(response.status, 400)
        await errorOf(response)
      }),
      { seed: 20_260_803, numRuns: 100 },
    )
  })
})
