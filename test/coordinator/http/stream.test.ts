import assert from 'node:assert/strict'
import { once } from 'node:events'
import { connect } from 'node:net'
import { describe, it } from 'node:test'
import type { ChatCompletionCreateParamsStreaming } from 'openai/resources/chat/completions'
import type { RunEvent } from '../../../coordinator/runs/events.ts'
import { HeadraceError } from '../../../shared/errors.ts'
import { aborted, allEvents, collect, serverSentEvents, startApi, tokenizer } from '../../support/api.ts'
import { failsAfter, hangsAfter, planned, type Script, writes } from '../../support/scripted-runs.ts'

const answer = [...tokenizer.encode('Day 18, naïve 🚢.'), 4]
const question: ChatCompletionCreateParamsStreaming = {
  model: 'logbook-7m',
  messages: [{ role: 'user', content: 'Q' }],
  stream: true,
}
const CHAT = '/v1/chat/completions'

interface Chunk {
  readonly id: string
  readonly object: string
  readonly choices: readonly {
    delta: { role?: string; content?: string }
    finish_reason: string | null
    logprobs: { content: { token: string }[] } | null
  }[]
  readonly usage?: { completion_tokens: number } | null
  readonly prompt_progress?: object
  readonly timings?: object
  readonly prefill?: { strategy: string; workers: object[]; links?: object }
  readonly error?: { message: string; type: string; code: string; param: string | null }
}
const chunksOf = (events: readonly unknown[]) => events.filter((event) => event !== '[DONE]') as Chunk[]
const deltaOf = (chunk: Chunk | undefined) => chunk?.choices[0]?.delta

describe('a stream of chat chunks', () => {
  it('is read by the official client', async () => {
    await using api = await startApi(writes(answer))
    const chunks = await collect(await api.openai.chat.completions.create(question))
    assert.equal(chunks.map((chunk) => chunk.choices[0]?.delta.content ?? '').join(''), 'Day 18, naïve 🚢.')
    assert.equal(new Set(chunks.map(({ id }) => id)).size, 1)
    for (const { object, system_fingerprint } of chunks) {
      assert.equal(object, 'chat.completion.chunk')
      assert.equal(system_fingerprint, 'fp_abababababab')
    }
  })

  it('comes in the order that clients rely on', async () => {
    await using api = await startApi(writes(answer))
    const events = await allEvents(
      await api.post(CHAT, { ...question, stream_options: { include_usage: true }, return_progress: true }),
    )
    assert.equal(events.at(-1), '[DONE]')
    const chunks = chunksOf(events)
    assert.equal(chunks.length, events.length - 1)
    assert.deepEqual(chunks[0]?.prompt_progress, { total: 12, cache: 0, processed: 1, time_ms: 1 })
    assert.deepEqual(chunks[1]?.prompt_progress, { total: 12, cache: 0, processed: 12, time_ms: 12 })
    assert.deepEqual(deltaOf(chunks[2]), { role: 'assistant', content: '' })
    const texts = chunks.slice(3, -2)
    assert.ok(texts.length > 3)
    for (const chunk of texts) assert.ok((deltaOf(chunk)?.content ?? '').length > 0)
    const [end, usage] = chunks.slice(-2)
    assert.deepEqual(deltaOf(end), {})
    assert.equal(end?.choices[0]?.finish_reason, 'stop')
    assert.ok(end?.timings)
    assert.equal(end?.prefill?.workers.length, 2)
    assert.deepEqual(usage?.choices, [])
    assert.equal(usage?.usage?.completion_tokens, answer.length)
    for (const chunk of chunks.slice(0, -1)) assert.equal(chunk.usage, null)
    for (const chunk of chunks.slice(0, -2)) assert.equal(chunk.choices[0]?.finish_reason ?? null, null)
  })

  it('has neither progress nor usage unless they are asked for', async () => {
    await using api = await startApi(writes(answer))
    for (const chunk of chunksOf(await allEvents(await api.post(CHAT, question)))) {
      assert.equal('usage' in chunk, false)
      assert.equal('prompt_progress' in chunk, false)
    }
  })

  it('has a role and a reason even if not one token came', async () => {
    await using api = await startApi(writes([], { reason: 'length' }))
    const chunks = chunksOf(await allEvents(await api.post(CHAT, question)))
    assert.deepEqual(chunks.map(deltaOf), [{ role: 'assistant', content: '' }, {}])
    assert.equal(chunks[1]?.choices[0]?.finish_reason, 'length')
  })

  it('ends at a stop string that spans tokens, and lets the run end', async () => {
    await using api = await startApi(writes(tokenizer.encode('one two three four')))
    const chunks = chunksOf(await allEvents(await api.post(CHAT, { ...question, stop: ['o three'] })))
    assert.equal(chunks.map((chunk) => deltaOf(chunk)?.content ?? '').join(''), 'one tw')
    const end = chunks.at(-1)
    assert.equal(end?.choices[0]?.finish_reason, 'stop')
    assert.equal(end?.prefill?.strategy, 'chain')
    assert.ok(end?.prefill?.links)
    assert.ok(api.runs.requests[0]?.enough?.aborted)
    assert.equal(api.runs.leftEarly, 0)
  })

  it('carries log-probabilities with the text they belong to', async () => {
    const scored = (token: number) => ({ logprob: -1, top: [{ token, logprob: -1 }] })
    await using api = await startApi(writes(answer, { scored }))
    const events = await allEvents(await api.post(CHAT, { ...question, logprobs: true, top_logprobs: 1 }))
    const choices = chunksOf(events).flatMap((chunk) => chunk.choices)
    const tokens = choices.flatMap((choice) => choice.logprobs?.content ?? [])
    assert.equal(tokens.length, answer.length - 1)
    for (const { delta, logprobs } of choices)
      if (logprobs?.content.length === 1) assert.equal(delta.content, logprobs.content[0]?.token)
  })
})

describe('a silent stream', () => {
  it('opens at once and says every few seconds that it lives', async () => {
    await using api = await startApi(hangsAfter(), { pingSeconds: 15 })
    const response = await api.post(CHAT, question)
    assert.equal(response.status, 200)
    assert.equal(response.headers.get('content-type'), 'text/event-stream; charset=utf-8')
    const events = serverSentEvents(response)
    for (let ping = 0; ping < 3; ping++) {
      await api.clock.sleeping(15)
      api.clock.advance(15)
      assert.deepEqual((await events.next()).value, { comment: 'keep-alive' })
    }
    await events.return()
  })

  it('counts its silence from the last event', async () => {
    const turns: (() => void)[] = []
    const script: Script = async function* (request, signal) {
      await new Promise<void>((resolve) => turns.push(resolve))
      yield { kind: 'progress', processed: 1, total: 2, seconds: 1 }
      yield* hangsAfter()(request, signal)
    }
    await using api = await startApi(script, { pingSeconds: 15 })
    const events = serverSentEvents(await api.post(CHAT, { ...question, return_progress: true }))
    await api.clock.sleeping(15)
    api.clock.advance(10)
    for (const resolve of turns) resolve()
    assert.ok(((await events.next()).value as Chunk).prompt_progress)
    api.clock.advance(5)
    await api.clock.sleeping(10)
    api.clock.advance(10)
    assert.deepEqual((await events.next()).value, { comment: 'keep-alive' })
    await events.return()
  })
})

describe('an error', () => {
  const lost = new HeadraceError('worker_lost', 'worker w2 vanished')

  it('before anything was computed is a plain HTTP error, also for a stream', async () => {
    await using api = await startApi(failsAfter(new HeadraceError('queue_full', 'too many prompts wait')))
    const response = await api.post(CHAT, question)
    assert.equal(response.status, 429)
    assert.equal(response.headers.get('retry-after'), '5')
    assert.equal(((await response.json()) as Chunk).error?.code, 'queue_full')
  })

  it('after the headers is the last event of the stream', async () => {
    const script: Script = async function* (request) {
      yield planned(request.promptTokens.length)
      yield { kind: 'token', index: 0, token: 70 }
      throw lost
    }
    await using api = await startApi(script)
    const events = (await allEvents(await api.post(CHAT, question))) as Chunk[]
    assert.deepEqual(events.at(-1), {
      error: { message: 'worker w2 vanished', type: 'server_error', param: null, code: 'worker_lost' },
    })
    assert.equal(deltaOf(events.at(-2))?.content, 'a')
  })

  it('after the headers is thrown by the official client', async () => {
    const token: RunEvent = { kind: 'token', index: 0, token: 70 }
    await using api = await startApi(failsAfter(lost, token))
    const stream = await api.openai.chat.completions.create(question)
    await assert.rejects(collect(stream), /worker w2 vanished/)
  })

  it('that is a defect does not show its inside, but logs it', async () => {
    const token: RunEvent = { kind: 'token', index: 0, token: 70 }
    await using api = await startApi(failsAfter(new TypeError('secret of the house'), token))
    const text = JSON.stringify(await allEvents(await api.post(CHAT, question)))
    assert.match(text, /"code":"internal"/)
    assert.doesNotMatch(text, /secret/)
    assert.match(api.logged.join(''), /secret of the house/)
  })
})

describe('a client that leaves', () => {
  for (const stream of [true, false])
    it(`cancels its run at once, ${stream ? 'streaming' : 'waiting for a whole answer'}`, async () => {
      await using api = await startApi()
      const client = new AbortController()
      let response: Promise<Response> | undefined
      const signal = await new Promise<AbortSignal>((started) => {
        api.runs.script = (request, runSignal) => {
          started(runSignal)
          return hangsAfter()(request, runSignal)
        }
        response = api.post(CHAT, { ...question, stream }, client.signal)
      })
      assert.equal(signal.aborted, false)
      client.abort()
      await response?.then((answered) => answered.text()).catch(() => undefined)
      const reason = await aborted(signal)
      assert.ok(reason instanceof HeadraceError && reason.code === 'cancelled')
      assert.equal(api.runs.leftEarly, 1)
    })
})

/** Enough in every chunk that a socket's buffers fill soon. */
const wide = Array.from({ length: 20 }, (_, at) => ({ token: 70 + at, logprob: -at }))

describe('a client that does not read', () => {
  const body = JSON.stringify({ ...question, logprobs: true, top_logprobs: 20 })
  const head = `POST ${CHAT} HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n`

  const TOKENS = 10_000

  /** Asks over a bare socket that reads nothing, and waits until the run stands still; `written` counts its tokens. */
  async function stalled() {
    let written = 0
    const api = await startApi(async function* (request) {
      yield planned(request.promptTokens.length)
      for (let index = 0; index < TOKENS; index++, written++)
        yield { kind: 'token', index, token: 70, logprob: { logprob: -1, top: wide } }
    })
    const socket = connect(api.port, '127.0.0.1').pause()
    socket.write(`${head}content-length: ${Buffer.byteLength(body)}\r\n\r\n${body}`)
    let before = -1
    // While the process answers others, a run that may go on does.
    for (let still = 0; still < 5; still = written === before && written > 0 ? still + 1 : 0) {
      before = written
      assert.equal((await fetch(`${api.url}/live`)).status, 200)
    }
    await api.clock.sleeping(30)
    return { api, socket, written: () => written }
  }

  it('holds up its run, and no other thing', async () => {
    const { api, socket, written } = await stalled()
    await using _api = api
    assert.ok(written() < TOKENS, `${written()} tokens were taken`)
    socket.destroy()
    await aborted(api.runs.signals[0] ?? AbortSignal.abort())
  })

  it('may go on later', async () => {
    const { api, socket, written } = await stalled()
    await using _api = api
    let text = ''
    for await (const piece of socket.setEncoding('latin1')) {
      text = text.slice(-1000) + piece
      if (text.includes('"code":"internal"')) break // the script has no end: so ends its stream
    }
    assert.equal(written(), TOKENS)
  })

  it('is treated as gone after 30 seconds', async () => {
    const { api, socket } = await stalled()
    await using _api = api
    api.clock.advance(30)
    const reason = await aborted(api.runs.signals[0] ?? AbortSignal.abort())
    assert.match(String(reason), /took nothing for 30 seconds/)
    socket.destroy()
  })
})

describe('a server that closes', () => {
  it('lets a stream end, and refuses what comes after it', async () => {
    let finish = (): void => undefined
    const ended = new Promise<void>((resolve) => {
      finish = resolve
    })
    await using api = await startApi(async function* (request, signal) {
      await ended
      yield* writes([70])(request, signal)
    })
    const socket = connect(api.port, '127.0.0.1').setEncoding('utf8')
    const body = JSON.stringify(question)
    socket.write(
      `POST ${CHAT} HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: ${body.length}\r\n\r\n${body}`,
    )
    await once(socket, 'data')
    const closed = api.app.close()
    const arrived = once(api.app.server, 'request')
    socket.write('GET /v1/models HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n')
    await arrived
    finish()
    let text = ''
    for await (const piece of socket) text += piece
    await closed
    assert.match(text, /data: \[DONE\]/)
    assert.match(text, /HTTP\/1\.1 503 .*"code":"shutting_down"/s)
  })
})
