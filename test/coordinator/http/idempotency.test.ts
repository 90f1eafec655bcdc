import assert from 'node:assert/strict'
import { describe, it } from 'node:test'
import { KeptAnswers } from '../../../coordinator/http/kept-answers.ts'
import type { RunEvent } from '../../../coordinator/runs/events.ts'
import { HeadraceError } from '../../../shared/errors.ts'
import { aborted, allEvents, collect, startApi, tokenizer } from '../../support/api.ts'
import { ManualClock } from '../../support/manual-clock.ts'
import {
  chainPlan,
  failsAfter,
  hangsAfter,
  planned,
  reportOf,
  type Script,
  writes,
} from '../../support/scripted-runs.ts'

const CHAT = '/v1/chat/completions'
const TEXT = '/v1/completions'
const ask = { messages: [{ role: 'user', content: 'Q' }], stream: true }
const answer = [...tokenizer.encode('Day 18, naïve 🚢.'), 4]
const keyed = (key: string, more: Readonly<Record<string, string>> = {}) => ({ 'idempotency-key': key, ...more })

type Api = Awaited<ReturnType<typeof startApi>>
const post = (api: Api, body: object, key: string, more?: Readonly<Record<string, string>>, signal?: AbortSignal) =>
  api.post(CHAT, body, signal, keyed(key, more))

/** A run that tells a token for each call of `step`, and its end after the last. */
function stepped(tokens: readonly number[]) {
  const steps: (() => void)[] = []
  let taken = 0
  const script: Script = async function* (request) {
    yield planned(request.promptTokens.length)
    for (const [index, token] of tokens.entries()) {
      await new Promise<void>((resolve) => {
        if (taken > index) resolve()
        else steps[index] = resolve
      })
      yield { kind: 'token', index, token }
    }
    yield { kind: 'finished', reason: 'stop', report: reportOf(chainPlan(request.promptTokens.length), tokens.length) }
  }
  return {
    script,
    step: (count = 1) => {
      for (let i = 0; i < count; i++) steps[taken++]?.()
    },
  }
}

/** The raw text of a stream, as it comes. */
async function* rawEvents(response: Response): AsyncGenerator<string, void> {
  let text = ''
  for await (const piece of response.body!.pipeThrough(new TextDecoderStream())) {
    text += piece
    for (let end = text.indexOf('\n\n'); end >= 0; end = text.indexOf('\n\n')) {
      yield text.slice(0, end)
      text = text.slice(end + 2)
    }
  }
}

describe('every event of a stream', () => {
  it('has the request’s id and its position', async () => {
    await using api = await startApi(writes(answer))
    const events = await collect(rawEvents(await api.post(CHAT, ask)))
    const { id } = JSON.parse(events[0]!.split('data: ')[1]!) as { id: string }
    for (const [position, event] of events.entries())
      assert.ok(event.startsWith(`id: ${id}.${position}\ndata: `), event)
  })
})

describe('a request with an idempotency key', () => {
  for (const [path, body] of [
    [CHAT, ask],
    [CHAT, { ...ask, stream: false }],
    [TEXT, { prompt: 'Q', stream: true }],
    [TEXT, { prompt: 'Q' }],
  ] as const)
    it(`that is asked again gets the same answer of the same run: ${path}, ${'stream' in body && body.stream ? 'streaming' : 'whole'}`, async () => {
      await using api = await startApi(writes(answer))
      const texts = []
      for (const replayed of [null, 'true', 'true']) {
        const response = await api.post(path, body, undefined, keyed('k'))
        assert.equal(response.status, 200)
        assert.equal(response.headers.get('idempotent-replayed'), replayed)
        texts.push(await response.text())
      }
      assert.match(texts[0]!, /"timings"/)
      assert.deepEqual(texts, [texts[0], texts[0], texts[0]])
      assert.equal(api.runs.requests.length, 1)
      assert.equal((await api.post(path, body, undefined, keyed('other'))).status, 200)
      assert.equal(api.runs.requests.length, 2)
    })

  it('is one run while it runs: who comes later hears everything from the beginning', async () => {
    const run = stepped(answer)
    await using api = await startApi(run.script)
    const first = await post(api, ask, 'k')
    run.step(3)
    const early = rawEvents(first)
    for (let i = 0; i < 3; i++) await early.next()
    const second = await post(api, ask, 'k')
    run.step(answer.length)
    const heard = await collect(rawEvents(second))
    const rest = await collect(early)
    assert.deepEqual(heard.slice(3), rest)
    assert.equal(heard.at(-1)?.split('data: ')[1], '[DONE]')
    assert.equal(api.runs.requests.length, 1)
  })

  it('is one run also for whole answers that are waited for at the same time', async () => {
    const run = stepped(answer)
    await using api = await startApi(run.script)
    const both = [post(api, { ...ask, stream: false }, 'k'), post(api, { ...ask, stream: false }, 'k')]
    while (api.runs.requests.length === 0) await new Promise((resolve) => setImmediate(resolve))
    run.step(answer.length)
    const [one, two] = await Promise.all(both.map(async (response) => (await response).text()))
    assert.equal(one, two)
    assert.equal(api.runs.requests.length, 1)
  })

  it('goes on behind the event that Last-Event-ID names, finished or not', async () => {
    await using api = await startApi(writes(answer))
    const all = await collect(rawEvents(await post(api, ask, 'k')))
    for (const at of [0, 4, all.length - 1]) {
      const last = all[at]!.slice('id: '.length).split('\n')[0]!
      const rest = await collect(rawEvents(await post(api, ask, 'k', { 'last-event-id': last })))
      assert.deepEqual(rest, all.slice(at + 1))
    }
    const stranger = await collect(rawEvents(await post(api, ask, 'k', { 'last-event-id': 'chatcmpl-other.3' })))
    assert.deepEqual(stranger, all)
  })

  it('with another body or on another route is refused', async () => {
    await using api = await startApi(writes(answer))
    await (await post(api, ask, 'k')).text()
    for (const refused of [
      await post(api, { ...ask, temperature: 0.5 }, 'k'),
      await post(api, { ...ask, stream: false }, 'k'),
      await api.post(TEXT, ask, undefined, keyed('k')),
    ]) {
      assert.equal(refused.status, 422)
      assert.equal(((await refused.json()) as { error: { code: string } }).error.code, 'idempotency_mismatch')
    }
    assert.equal(api.runs.requests.length, 1)
  })

  it('whose key is too long or empty is refused', async () => {
    await using api = await startApi(writes(answer))
    for (const [key, status] of [
      ['k'.repeat(255), 200],
      ['k'.repeat(256), 400],
      ['', 400],
    ] as const)
      assert.equal((await post(api, { ...ask, stream: false }, key)).status, status, `${key.length}`)
  })

  it('that was refused runs when it is asked again', async () => {
    await using api = await startApi(failsAfter(new HeadraceError('queue_full', 'too many prompts wait')))
    assert.equal((await post(api, ask, 'k')).status, 429)
    assert.equal((await post(api, { ...ask, n: 2 }, 'k')).status, 400)
    api.runs.script = writes(answer)
    const events = await allEvents(await post(api, ask, 'k'))
    assert.equal(events.at(-1), '[DONE]')
    assert.equal(api.runs.requests.length, 2)
  })

  it('that failed before it told anything runs again; afterwards it tells the same again', async () => {
    const lost = new HeadraceError('worker_lost', 'worker w2 vanished')
    const token: RunEvent = { kind: 'token', index: 0, token: 70 }
    await using api = await startApi(failsAfter(lost, { kind: 'progress', processed: 1, total: 9, seconds: 1 }))
    const codes = async (key: string) => {
      const events = (await allEvents(await post(api, { ...ask, return_progress: true }, key))) as {
        error?: { code: string }
      }[]
      return [events.length, events.at(-1)?.error?.code]
    }
    assert.deepEqual(await codes('early'), [2, 'worker_lost'])
    api.runs.script = failsAfter(lost, token)
    assert.deepEqual(await codes('early'), [3, 'worker_lost'])
    api.runs.script = writes(answer)
    assert.deepEqual(await codes('early'), [3, 'worker_lost'])
    assert.equal(api.runs.requests.length, 2)
  })

  it('that failed as a whole answer runs again, since its client has seen nothing', async () => {
    const token: RunEvent = { kind: 'token', index: 0, token: 70 }
    await using api = await startApi(failsAfter(new HeadraceError('worker_lost', 'gone'), token))
    assert.equal((await post(api, { ...ask, stream: false }, 'k')).status, 502)
    api.runs.script = writes(answer)
    assert.equal((await post(api, { ...ask, stream: false }, 'k')).status, 200)
  })
})

describe('a client with an idempotency key that leaves', () => {
  /** Opens a stream, reads its first event and breaks it off. */
  async function leave(api: Api) {
    const client = new AbortController()
    const events = rawEvents(await post(api, ask, 'k', {}, client.signal))
    await events.next()
    client.abort()
    await events.next().catch(() => undefined)
  }

  it('finds its run when it comes back in time', async () => {
    const run = stepped(answer)
    await using api = await startApi(run.script)
    run.step()
    await leave(api)
    await api.clock.sleeping(30)
    api.clock.advance(29)
    const back = await post(api, ask, 'k')
    api.clock.advance(100)
    run.step(answer.length)
    assert.equal((await allEvents(back)).at(-1), '[DONE]')
    assert.equal(api.runs.requests.length, 1)
    assert.equal(api.runs.signals[0]?.aborted, false)
  })

  it('ends its run when nobody comes back', async () => {
    await using api = await startApi(hangsAfter(planned(12), { kind: 'token', index: 0, token: 70 }))
    await leave(api)
    await api.clock.sleeping(30)
    api.clock.advance(30)
    const reason = await aborted(api.runs.signals[0]!)
    assert.match(String(reason), /nobody came back/)
  })

  it('leaves the run to others who listen', async () => {
    const run = stepped(answer)
    await using api = await startApi(run.script)
    run.step()
    const other = await post(api, ask, 'k')
    await leave(api)
    api.clock.advance(100)
    run.step(answer.length)
    assert.equal((await allEvents(other)).at(-1), '[DONE]')
    assert.equal(api.runs.signals[0]?.aborted, false)
  })
})

describe('kept answers', () => {
  async function* told(text: string) {
    yield { data: text, tells: true }
  }
  const of = (account: string, key: string) => ({ account, key, hash: 'h' })
  const making = (text: string, mostBytes = 100) => ({ id: 'x', stream: false, mostBytes, make: () => told(text) })
  const settled = () => new Promise((resolve) => setImmediate(resolve))

  it('are had for an hour', async () => {
    const clock = new ManualClock()
    const kept = new KeptAnswers(clock)
    kept.begin(of('a', '1'), making('hello'))
    await settled()
    clock.advance(3599)
    assert.equal(kept.find(of('a', '1'))?.finished, true)
    clock.advance(1)
    assert.equal(kept.find(of('a', '1')), undefined)
    assert.deepEqual([kept.entries, kept.bytes], [0, 0])
  })

  it('are of one account: another with the same key has another', async () => {
    const kept = new KeptAnswers(new ManualClock())
    kept.begin(of('a', '1'), making('hello'))
    assert.equal(kept.find(of('b', '1')), undefined)
  })

  it('take what they come to once they are complete, and the oldest make way', async () => {
    const kept = new KeptAnswers(new ManualClock(), { entries: 100, bytes: 250 })
    for (const key of ['1', '2', '3', '4']) {
      kept.begin(of('a', key), making('x'.repeat(40)))
      await settled()
    }
    assert.equal(kept.bytes, 160)
    assert.equal(kept.find(of('a', '1')), undefined)
    assert.equal(kept.find(of('a', '2')), undefined)
    assert.ok(kept.find(of('a', '3')))
  })

  it('are bounded in number, and who asks much pushes out its own first', async () => {
    const kept = new KeptAnswers(new ManualClock(), { entries: 3, bytes: 1e6 })
    kept.begin(of('quiet', '1'), making('hello'))
    await settled()
    for (let i = 0; i < 20; i++) {
      kept.begin(of('loud', `${i}`), making('hello'))
      await settled()
    }
    assert.equal(kept.entries, 3)
    assert.ok(kept.find(of('quiet', '1')))
  })

  it('that are still being made do not make way: the next one is refused', () => {
    const kept = new KeptAnswers(new ManualClock(), { entries: 2, bytes: 250 })
    const code = (action: () => unknown) => {
      try {
        action()
        return 'none'
      } catch (thrown) {
        return (thrown as HeadraceError).code
      }
    }
    assert.equal(
      code(() => kept.begin(of('a', '1'), making('x', 251))),
      'invalid_request',
    )
    assert.equal(
      code(() => kept.begin(of('a', '1'), making('x'))),
      'none',
    )
    assert.equal(
      code(() => kept.begin(of('a', '2'), making('x', 151))),
      'rate_limit_exceeded',
    )
    assert.equal(
      code(() => kept.begin(of('a', '2'), making('x'))),
      'none',
    )
    assert.equal(
      code(() => kept.begin(of('a', '3'), making('x', 1))),
      'rate_limit_exceeded',
    )
  })
})
