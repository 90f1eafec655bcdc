import assert from 'node:assert/strict'
import { after, before, describe, it } from 'node:test'
import { bundledModel } from '../support/paths.ts'
import { askUntil, type ClusterAnswer, Headrace } from '../support/processes.ts'

/** A coordinator that ends and is started again, as an init system does, while workers and clients stay. */

const prompt = 'In the morning of day 27, nothing passed; the bell cracked for most of the day. '.repeat(60)
const body = { prompt, max_tokens: 400, temperature: 0.8, seed: 11, headrace: { ignore_eos: true } }

interface Answer {
  readonly choices: { text: string }[]
  readonly usage: { prompt_tokens: number; prompt_tokens_details: { cached_tokens: number } }
}

describe('a coordinator that is started anew', () => {
  const processes: Headrace[] = []
  let coordinator: Headrace
  let url: string
  const start = (...args: string[]): Headrace => {
    const process = new Headrace(...args, '--log-level', 'info')
    processes.push(process)
    return process
  }
  const startCoordinator = (port: string): Headrace => start('coordinator', '--model', bundledModel, '--port', port)
  const allReady = () =>
    askUntil<ClusterAnswer>(
      `${url}/v1/cluster`,
      ({ workers }) => workers.filter((w) => w.state === 'ready').length === 2,
    )
  const ask = (key: string, of: object = {}) =>
    fetch(`${url}/v1/completions`, {
      method: 'POST',
      headers: { 'content-type': 'application/json', 'idempotency-key': key },
      body: JSON.stringify({ ...body, ...of }),
    })

  before(async () => {
    coordinator = startCoordinator('0')
    url = await coordinator.line(/^http:/)
    for (const role of ['prefill', 'decode'])
      start(
        'worker',
        '--join',
        url,
        '--model',
        bundledModel,
        '--role',
        role,
        '--name',
        role,
        '--threads',
        '1',
        '--port',
        '0',
      )
    await allReady()
  })
  after(() => Promise.all(processes.map((process) => process.stop())))

  /** Ends the coordinator in mid-answer, starts it again, and returns what its client had got by then. */
  async function endedInAnswer(key: string, signal: NodeJS.Signals): Promise<string> {
    const stream = await ask(key, { stream: true })
    let text = ''
    try {
      for await (const piece of stream.body!) {
        if (text === '') coordinator.child.kill(signal)
        text += Buffer.from(piece)
      }
    } catch {
      text += '\n(the connection broke)'
    }
    await coordinator.exited()
    coordinator = startCoordinator(new URL(url).port)
    await coordinator.line(/^http:/)
    await allReady()
    return text
  }

  for (const [signal, end] of [
    ['SIGTERM', /"code":"shutting_down"/],
    ['SIGKILL', /the connection broke/],
  ] as const)
    it(`finds the prompt's KV again for a client that asks again with its key after ${signal}`, async () => {
      const expected = (await (await ask(`before ${signal}`)).json()) as Answer
      assert.equal(expected.usage.prompt_tokens_details.cached_tokens, 0)
      assert.match(await endedInAnswer(signal, signal), end)
      const again = (await (await ask(signal)).json()) as Answer
      assert.equal(again.choices[0]!.text, expected.choices[0]!.text)
      assert.equal(again.usage.prompt_tokens_details.cached_tokens, expected.usage.prompt_tokens)
    })
})
