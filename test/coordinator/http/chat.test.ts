import assert from 'node:assert/strict'
import { describe, it } from 'node:test'
import type { ChatCompletionCreateParamsNonStreaming } from 'openai/resources/chat/completions'
import { startApi, tokenizer } from '../../support/api.ts'
import { chainPlan, writes } from '../../support/scripted-runs.ts'

const answer = [...tokenizer.encode('Day 18, naïve 🚢.'), 4]
const question: ChatCompletionCreateParamsNonStreaming = {
  model: 'logbook-7m',
  messages: [{ role: 'user', content: ' hi ' }],
}
const promptText =
  '<|begin_of_text|><|start_header_id|>user<|end_header_id|>\n\nhi<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n'

describe('a chat completion', () => {
  it('has the shape that the official client reads', async () => {
    await using api = await startApi(writes(answer))
    const completion = await api.openai.chat.completions.create(question)
    assert.match(completion.id, /^chatcmpl-[0-9a-f]{32}$/)
    assert.equal(completion.object, 'chat.completion')
    assert.equal(completion.model, 'logbook-7m')
    assert.equal(completion.system_fingerprint, 'fp_abababababab')
    assert.ok(Math.abs(completion.created - Date.now() / 1000) < 60)
    assert.deepEqual(completion.choices, [
      {
        index: 0,
        message: { role: 'assistant', content: 'Day 18, naïve 🚢.', refusal: null },
        logprobs: null,
        finish_reason: 'stop',
      },
    ])
    const prompt = tokenizer.encode(promptText).length
    assert.deepEqual(completion.usage, {
      prompt_tokens: prompt,
      completion_tokens: answer.length,
      total_tokens: prompt + answer.length,
      prompt_tokens_details: { cached_tokens: 0, audio_tokens: 0 },
      completion_tokens_details: { reasoning_tokens: 0, audio_tokens: 0 },
    })
  })

  it('tells where the time went: timings in llama-server’s names and the prefill by worker', async () => {
    await using api = await startApi(writes(answer))
    const body = (await (await api.post('/v1/chat/completions', question)).json()) as Record<string, unknown>
    const n = tokenizer.encode(promptText).length
    assert.deepEqual(body['timings'], {
      cache_n: 0,
      prompt_n: n,
      prompt_ms: 2000,
      prompt_per_token_ms: 2000 / n,
      prompt_per_second: n / 2,
      predicted_n: answer.length,
      predicted_ms: 250,
      predicted_per_token_ms: 250 / answer.length,
      predicted_per_second: (answer.length * 1000) / 250,
    })
    const [first, second] = chainPlan(n).workers
    const half = first?.spans[0]?.end ?? 0
    assert.deepEqual(body['prefill'], {
      run: 'run-1',
      strategy: 'chain',
      workers: [
        {
          id: 'w1',
          precision: 'f32',
          spans: [[0, half]],
          tokens: half,
          compute_seconds: 1,
          wait_seconds: 0.1,
          send_seconds: 0.05,
        },
        {
          id: second?.worker,
          precision: 'int8',
          spans: [[half, n - 1]],
          tokens: n - 1 - half,
          compute_seconds: 2,
          wait_seconds: 0.1,
          send_seconds: 0.05,
        },
      ],
      links: [
        { from: 'w1', to: 'w2', bytes: 1000 },
        { from: 'w2', to: 'd1', bytes: 1000 },
      ],
      decode: 'd1',
      decode_precision: 'f32',
      mixed_precision: true,
      decode_tokens: 1,
      queue_seconds: 0.5,
      ttft_seconds: 2.5,
      predicted_ttft_seconds: 1.4,
      bottleneck: "w2's arithmetic (2.00 s of 2.00 s)",
      attempts: 1,
      repairs: [],
    })
  })

  it('sends the rendered template as tokens, with OpenAI’s defaults', async () => {
    await using api = await startApi(writes(answer))
    await api.openai.chat.completions.create(question)
    const request = api.runs.requests[0]
    assert.deepEqual([...(request?.promptTokens ?? [])], tokenizer.encode(promptText))
    assert.equal(request?.maxTokens, 512)
    assert.deepEqual(request?.stopTokens, [4])
    const { seed, ...sampling } = request?.sampling ?? { seed: -1 }
    assert.deepEqual(sampling, { temperature: 1, topP: 1, topK: 0 })
    assert.ok(Number.isInteger(seed) && seed >= 0 && seed <= 0xffffffff)
  })

  it('passes on every option it has', async () => {
    await using api = await startApi(writes(answer))
    await api.post('/v1/chat/completions', {
      ...question,
      max_tokens: 7,
      max_completion_tokens: 9,
      temperature: 0.25,
      top_p: 0.5,
      top_k: 3,
      seed: -1,
      logprobs: true,
      top_logprobs: 2,
      headrace: { strategy: 'ring', workers: 2, ignore_eos: true },
      unheard_of: { x: 1 },
      user: 'somebody',
      tools: [],
      stop: null,
      n: 1,
    })
    const [request] = api.runs.requests
    assert.ok(request?.enough)
    const { promptTokens, enough: _enough, ...rest } = request
    assert.equal(promptTokens.length, tokenizer.encode(promptText).length)
    assert.deepEqual(rest, {
      maxTokens: 9,
      sampling: { temperature: 0.25, topP: 0.5, topK: 3, seed: 0xffffffff, logprobs: 2 },
      stopTokens: [],
      strategy: 'ring',
      workers: 2,
    })
  })

  it('takes content in parts and OpenAI’s newer name of the system role', async () => {
    await using api = await startApi(writes(answer))
    await api.openai.chat.completions.create({
      model: 'logbook-7m',
      messages: [
        { role: 'developer', content: 'Be brief.' },
        {
          role: 'user',
          content: [
            { type: 'text', text: 'one' },
            { type: 'text', text: 'two' },
          ],
        },
        { role: 'assistant', content: null },
        { role: 'tool', content: 'r', tool_call_id: 't' },
      ],
    })
    const text = tokenizer.decode([...(api.runs.requests[0]?.promptTokens ?? [])])
    const turn = (role: string, content: string) =>
      `<|start_header_id|>${role}<|end_header_id|>\n\n${content}<|eot_id|>`
    assert.equal(
      text,
      `<|begin_of_text|>${turn('system', 'Be brief.')}${turn('user', 'one\ntwo')}${turn('assistant', '')}${turn('tool', 'r')}` +
        '<|start_header_id|>assistant<|end_header_id|>\n\n',
    )
  })

  it('reports a cut at the token limit', async () => {
    await using api = await startApi(writes(answer.slice(0, 3), { reason: 'length' }))
    const completion = await api.openai.chat.completions.create({ ...question, max_tokens: 3 })
    assert.equal(completion.choices[0]?.finish_reason, 'length')
  })
})

describe('a stop string', () => {
  it('ends the answer before itself, and lets the run end', async () => {
    await using api = await startApi(writes(tokenizer.encode('one two three four')))
    const completion = await api.openai.chat.completions.create({ ...question, stop: ['xyz', 'o th'] })
    assert.equal(completion.choices[0]?.message.content, 'one tw')
    assert.equal(completion.choices[0]?.finish_reason, 'stop')
    assert.ok(api.runs.requests[0]?.enough?.aborted)
    assert.equal(api.runs.leftEarly, 0)
    assert.ok((completion.usage?.completion_tokens ?? 0) < tokenizer.encode('one two three four').length)
  })

  it('that only begins is part of the answer', async () => {
    await using api = await startApi(writes([...tokenizer.encode('one two'), 4]))
    const completion = await api.openai.chat.completions.create({ ...question, stop: 'two three' })
    assert.equal(completion.choices[0]?.message.content, 'one two')
    assert.ok(!api.runs.requests[0]?.enough?.aborted)
  })
})

describe('log-probabilities', () => {
  const ids = tokenizer.encode('€ day')
  const scored = (token: number) => ({
    logprob: -token / 1000,
    top: [
      { token, logprob: -token / 1000 },
      { token: 70, logprob: -9 },
    ],
  })

  it('name each token with its exact bytes, and not the end token', async () => {
    await using api = await startApi(writes([...ids, 4], { scored }))
    const completion = await api.openai.chat.completions.create({ ...question, logprobs: true, top_logprobs: 2 })
    const content = completion.choices[0]?.logprobs?.content ?? []
    assert.equal(content.length, ids.length)
    const bytes = content.flatMap((entry) => entry.bytes ?? [])
    assert.equal(Buffer.from(bytes).toString(), '€ day')
    assert.equal(content[0]?.logprob, -(ids[0] ?? 0) / 1000)
    assert.deepEqual(content[0]?.top_logprobs[1], { token: 'a', logprob: -9, bytes: [0x61] })
  })

  it('stop where the text stops', async () => {
    await using api = await startApi(writes(tokenizer.encode('one two three'), { scored }))
    const completion = await api.openai.chat.completions.create({ ...question, logprobs: true, stop: ' two' })
    const content = completion.choices[0]?.logprobs?.content ?? []
    assert.equal(completion.choices[0]?.message.content, 'one')
    assert.equal(content.map(({ token }) => token).join(''), 'one')
  })
})
