import assert from 'node:assert/strict'
import { readFileSync } from 'node:fs'
import { after, before, describe, it } from 'node:test'
import OpenAI from 'openai'
import { STRATEGIES } from '../../shared/plan.ts'
import { fixture } from '../support/paths.ts'
import { type Headrace, startUp } from '../support/processes.ts'

/**
 * The whole thing as its users see it: processes started by `headrace up`, the official client, prompts whose answers
 * Hugging Face transformers gave.
 */

interface Known {
  readonly messages: OpenAI.ChatCompletionMessageParam[]
  readonly prompt_tokens: number
  readonly dense: { text: string; greedy_ids: number[]; top10_ids: number[]; top10_logits: number[]; logsumexp: number }
}

const prompts: Known[] = readFileSync(fixture('prompts/prompts.jsonl'), 'utf8')
  .trim()
  .split('\n')
  .map((line) => JSON.parse(line))

describe('the bundled model behind the official client', () => {
  let up: Headrace
  let client: OpenAI
  before(async () => {
    const started = await startUp('--workers', '2', '--pin', '--wire', 'f32')
    up = started.up
    client = new OpenAI({ baseURL: `${started.url}/v1`, apiKey: 'none', maxRetries: 0 })
  })
  after(() => up.stop())

  for (const strategy of STRATEGIES) {
    it(`gives the reference answers by ${strategy}`, async () => {
      for (const { messages, prompt_tokens, dense } of prompts) {
        const answer = await client.chat.completions.create(body({ messages, strategy }))
        assert.equal(answer.choices[0]?.message.content?.trim(), dense.text)
        assert.equal(answer.usage?.prompt_tokens, prompt_tokens)
        assert.equal(answer.usage?.completion_tokens, dense.greedy_ids.length)
        assert.equal(answer.choices[0]?.finish_reason, 'stop')
      }
    })
  }

  it('streams what it answers at once', async () => {
    const { messages, dense } = prompts.at(-1)!
    const stream = await client.chat.completions.create({ ...body({ messages }), stream: true })
    let text = ''
    for await (const chunk of stream) text += chunk.choices[0]?.delta.content ?? ''
    assert.equal(text.trim(), dense.text)
  })

  it('reports the log-probabilities of the reference', async () => {
    const { messages, dense } = prompts[0]!
    const answer = await client.chat.completions.create({ ...body({ messages }), logprobs: true, top_logprobs: 5 })
    const [first] = answer.choices[0]?.logprobs?.content ?? []
    const known = dense.top10_logits.slice(0, 5).map((logit) => logit - dense.logsumexp)
    const found = first?.top_logprobs.map(({ logprob }) => logprob) ?? []
    assert.equal(found.length, 5)
    for (const [i, logprob] of known.entries())
      assert.ok(Math.abs(logprob - found[i]!) < 2e-3, `${i}: ${found[i]} instead of ${logprob}`)
  })

  it('splits as the client asks, and says how', async () => {
    const { messages, prompt_tokens } = prompts.at(-1)!
    const answer = await client.chat.completions.create(body({ messages, strategy: 'ring', workers: 2 }))
    const { prefill } = answer as unknown as { prefill: { strategy: string; workers: { tokens: number }[] } }
    assert.equal(prefill.strategy, 'ring')
    assert.equal(prefill.workers.length, 2)
    assert.equal(
      prefill.workers.reduce((sum, { tokens }) => sum + tokens, 0),
      prompt_tokens - 1,
    )
  })
})

function body(of: { messages: OpenAI.ChatCompletionMessageParam[]; strategy?: string; workers?: number }) {
  const { messages, ...headrace } = of
  return { model: 'logbook-7m', messages, temperature: 0, max_tokens: 48, headrace }
}
