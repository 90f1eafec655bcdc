import assert from 'node:assert/strict'
import { describe, it } from 'node:test'
import { allEvents, collect, startApi, tokenizer } from '../../support/api.ts'
import { writes } from '../../support/scripted-runs.ts'

const answer = [...tokenizer.encode('on day 18'), 4]
const scored = (token: number) => ({
  logprob: -1,
  top: [
    { token: 70, logprob: -0.5 },
    { token, logprob: -1 },
  ],
})

describe('a completion', () => {
  it('has the shape that the official client reads', async () => {
    await using api = await startApi(writes(answer))
    const completion = await api.openai.completions.create({ model: 'logbook-7m', prompt: 'The vault opened ' })
    assert.match(completion.id, /^cmpl-[0-9a-f]{32}$/)
    assert.equal(completion.object, 'text_completion')
    assert.deepEqual(completion.choices, [{ index: 0, text: 'on day 18', logprobs: null, finish_reason: 'stop' }])
    assert.equal(completion.usage?.prompt_tokens, tokenizer.encode('The vault opened ').length)
    assert.deepEqual([...(api.runs.requests[0]?.promptTokens ?? [])], tokenizer.encode('The vault opened '))
  })

  it('takes a prompt in token ids, alone or as a batch of one', async () => {
    await using api = await startApi(writes(answer))
    for (const prompt of [[70, 71, 72], [[70, 71, 72]]])
      await api.openai.completions.create({ model: 'logbook-7m', prompt })
    for (const { promptTokens } of api.runs.requests) assert.deepEqual([...promptTokens], [70, 71, 72])
    await api.openai.completions.create({ model: 'logbook-7m', prompt: ['abc'] })
    assert.deepEqual([...(api.runs.requests[2]?.promptTokens ?? [])], tokenizer.encode('abc'))
  })

  it('repeats the prompt when asked to', async () => {
    await using api = await startApi(writes(answer))
    for (const prompt of ['Vault ', tokenizer.encode('Vault ')]) {
      const { choices } = await api.openai.completions.create({ model: 'logbook-7m', prompt, echo: true })
      assert.equal(choices[0]?.text, 'Vault on day 18')
    }
  })

  it('gives log-probabilities in the older shape', async () => {
    await using api = await startApi(writes(answer, { scored }))
    const { choices } = await api.openai.completions.create({ model: 'logbook-7m', prompt: 'x', logprobs: 2 })
    const logprobs = choices[0]?.logprobs
    assert.equal(api.runs.requests[0]?.sampling.logprobs, 2)
    assert.equal(logprobs?.tokens?.join(''), 'on day 18')
    assert.equal(logprobs?.token_logprobs?.length, logprobs?.tokens?.length)
    assert.deepEqual(logprobs?.top_logprobs?.[0], { [logprobs.tokens?.[0] ?? '']: -1, a: -0.5 })
    const offsets = logprobs?.text_offset ?? []
    for (const [at, token] of (logprobs?.tokens ?? []).entries())
      assert.equal('on day 18'.slice(offsets[at], (offsets[at] ?? 0) + token.length), token)
  })

  it('streams text, then the reason, then the usage', async () => {
    await using api = await startApi(writes(answer))
    const stream = await api.openai.completions.create({
      model: 'logbook-7m',
      prompt: 'x',
      stream: true,
      stream_options: { include_usage: true },
    })
    const chunks = await collect(stream)
    assert.equal(chunks.map(({ choices }) => choices[0]?.text ?? '').join(''), 'on day 18')
    assert.deepEqual(
      chunks.map(({ choices }) => choices[0]?.finish_reason),
      [...chunks.slice(2).map(() => null), 'stop', undefined],
    )
    assert.equal(chunks.at(-1)?.usage?.completion_tokens, answer.length)
    for (const { object } of chunks) assert.equal(object, 'text_completion')
  })

  it('streams the repeated prompt first', async () => {
    await using api = await startApi(writes(answer))
    const events = await allEvents(await api.post('/v1/completions', { prompt: 'Vault ', echo: true, stream: true }))
    const texts = events.map((event) => (event as { choices?: { text: string }[] }).choices?.[0]?.text)
    assert.equal(texts[0], 'Vault ')
    assert.equal(texts.slice(0, -1).join(''), 'Vault on day 18')
    assert.equal(events.at(-1), '[DONE]')
  })
})
