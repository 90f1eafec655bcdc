import assert from 'node:assert/strict'
import { describe, it } from 'node:test'
import { AttemptFailed } from '../../../coordinator/runs/attempt.ts'
import type { Repair, RunRequest } from '../../../coordinator/runs/events.ts'
import { Progress } from '../../../coordinator/runs/progress.ts'
import type { RunFollower, Workers } from '../../../coordinator/runs/workers.ts'
import { HeadraceError } from '../../../shared/errors.ts'
import { asRunId, asWorkerId } from '../../../shared/ids.ts'
import type { Command, WorkerEvent } from '../../../shared/protocol/control.ts'
import { ManualClock } from '../../support/manual-clock.ts'
import { chainPlan } from '../../support/scripted-runs.ts'
import { sentOut } from '../../support/sent-out.ts'

const LAYERS = 4
const request: RunRequest = {
  promptTokens: Int32Array.of(7, 8, 9, 10, 11),
  maxTokens: 3,
  sampling: { temperature: 0, topP: 1, topK: 0, seed: 0 },
  stopTokens: [2],
}

/** Workers that say nothing by themselves; what they are sent is written down. */
function silentWorkers() {
  const sent: { worker: string; command: Command; tokens: number[] }[] = []
  const followers = new Map<string, RunFollower>()
  const workers: Workers = {
    urlOf: (worker) => `ws://${worker}`,
    epochOf: () => 1,
    ticket: ({ run, source, target, purpose }) => `${run} ${source} ${target} ${purpose}`,
    has: () => true,
    send: (worker, command, payload) => {
      const bytes = payload?.slice() ?? new Uint8Array()
      sent.push({ worker, command, tokens: [...new Int32Array(bytes.buffer)] })
    },
    follow: (run, who) => {
      followers.set(run, who)
      return () => followers.delete(run)
    },
  }
  const say = (worker: string, event: Extract<WorkerEvent, { run: string }>, ...numbers: number[]): void =>
    followers.get(event.run)?.onEvent(worker, event, new Uint8Array(Int32Array.from(numbers).buffer))
  const lose = (worker: string): void => {
    for (const follower of new Set(followers.values()))
      follower.onLost(worker, new HeadraceError('link_closed', 'killed'))
  }
  const took = (kind: Command['kind']) => sent.filter(({ command }) => command.kind === kind)
  return { workers, sent, say, lose, took, followers }
}

const coded = (code: string) => (error: unknown) => error instanceof HeadraceError && error.code === code
const failedAt = (worker: string, code: string) => (error: unknown) =>
  error instanceof AttemptFailed && error.worker === worker && error.cause.code === code

/** A block a token: w1 has [0, 2), w2 [2, 4), the decode node the last one. */
const plan = { ...chainPlan(5), blockTokens: 1 }

function start(of: { stallSeconds?: number; repairers?: readonly string[]; secondsLeft?: number } = {}) {
  const clock = new ManualClock()
  const silent = silentWorkers()
  const controller = new AbortController()
  const watch = new Progress(clock).watch(asRunId('a'), of.stallSeconds ?? 60)
  const repairs: Repair[] = []
  const news = sentOut(
    {
      id: 'a',
      plan,
      request,
      layers: LAYERS,
      workers: silent.workers,
      clock,
      watch,
      repairers: (excluded) =>
        (of.repairers ?? ['w1', 'w2', 'w3'])
          .filter((worker) => !excluded.has(worker))
          .map((worker) => ({ worker: asWorkerId(worker), cost: { o: 0, a: 1, b: 0 } })),
      secondsLeft: () => of.secondsLeft ?? 0,
      onRepair: (repair) => repairs.push(repair),
    },
    controller.signal,
  )
  return { ...silent, clock, controller, news, repairs }
}

const report = { tokens: 2, computeSeconds: 0, attendSeconds: 0, waitSeconds: 0, sendSeconds: 0, sent: [] }
const finished = (run: string, worker: string) => {
  const role = worker.startsWith('d') ? ('decode' as const) : ('prefill' as const)
  return { kind: 'finished', run, report: { ...report, worker, role } } as const
}

/** Lets what has been said be read. */
const settle = () => new Promise((resolve) => setImmediate(resolve))

describe('an attempt', () => {
  it('gives each worker tickets for those it fetches from, and new ones while it lasts', async () => {
    const { news, sent, took, clock, controller } = start()
    const first = news.next()
    const tickets = () =>
      sent.map(({ worker, command }) => [worker, 'tickets' in command ? command.tickets : undefined])
    const held = (run: string, source: string, target: string, purpose: string) => ({
      source,
      ticket: `${run} ${source} ${target} ${purpose}`,
    })
    const cached = held('a', 'd1', 'w2', 'cached')
    assert.deepEqual(tickets(), [
      ['d1', [held('a', 'w1', 'd1', 'handoff'), held('a', 'w2', 'd1', 'handoff')]],
      ['w1', []],
      ['w2', [held('a', 'w1', 'w2', 'prefix'), cached]],
    ])
    clock.advance(30)
    await clock.sleeping(30)
    assert.deepEqual(
      took('tickets').map(({ worker, command }) => [worker, command]),
      ['w1', 'w2'].map((worker) => [
        worker,
        { kind: 'tickets', run: 'a', tickets: [held('a', 'd1', worker, 'cached')] },
      ]),
    )
    controller.abort()
    await assert.rejects(first, coded('cancelled'))
    sent.length = 0
    clock.advance(30)
    await settle()
    assert.deepEqual(sent, [])
  })

  it('gives who makes up for another tickets for what it fetches, and the decode node one for what it makes', async () => {
    const { news, say, took, controller } = start({ repairers: ['w3'] })
    const first = news.next()
    say('w2', { kind: 'failed', run: 'a', code: 'engine_failed', message: 'x' })
    await settle()
    say('d1', { kind: 'surveyed', run: 'a', part: 'a', worker: 'w2' }, 2, 3, 0, 3, 4, 0)
    await settle()
    const [repair] = took('repair').map(({ command }) => command)
    const prefill = took('prefill').at(-1)
    assert.ok(repair?.kind === 'repair' && prefill?.command.kind === 'prefill')
    assert.equal(prefill.worker, 'w3')
    assert.equal(repair.ticket, `${repair.part} w3 d1 handoff`)
    assert.deepEqual(prefill.command.tickets, [{ source: 'd1', ticket: `${repair.part}+ d1 w3 cached` }])
    controller.abort()
    await assert.rejects(first, coded('cancelled'))
  })

  it('gives each worker its own tokens, and the decode node the last one, first', async () => {
    const { news, sent, controller } = start()
    const first = news.next()
    assert.deepEqual(
      sent.map(({ worker, command, tokens }) => [worker, command.kind, tokens]),
      [
        ['d1', 'decode', [11]],
        ['w1', 'prefill', [7, 8]],
        ['w2', 'prefill', [9, 10]],
      ],
    )
    controller.abort()
    await assert.rejects(first, coded('cancelled'))
    assert.deepEqual(
      sent
        .slice(3)
        .map(({ worker, command }) => `${worker} ${command.kind}`)
        .sort(),
      ['d1 cancel', 'w1 cancel', 'w2 cancel'],
    )
  })

  it('has the blocks that a lost worker did not hand over made again, on top of those that it did', async () => {
    const { news, say, lose, took, sent, repairs } = start()
    const first = news.next()
    lose('w1')
    await settle()
    assert.deepEqual(
      took('survey').map(({ worker, command }) => [worker, command]),
      [['d1', { kind: 'survey', run: 'a', part: 'a', worker: 'w1' }]],
    )
    assert.deepEqual(
      took('lost').map(({ worker }) => worker),
      ['w2'],
    )
    assert.deepEqual(
      repairs.map(({ worker, code, tokens }) => ({ worker, code, tokens })),
      [{ worker: 'w1', code: 'worker_lost', tokens: 2 }],
    )
    sent.length = 0
    // Position 0 is whole; of position 1 the decode node has the first two layers.
    say('d1', { kind: 'surveyed', run: 'a', part: 'a', worker: 'w1' }, 1, 2, 2)
    await settle()
    const [repair, prefill] = sent
    assert.ok(repair?.command.kind === 'repair' && prefill?.command.kind === 'prefill')
    assert.deepEqual([repair.worker, prefill.worker], ['d1', repair.command.by.worker])
    assert.deepEqual(repair.command.layers, { from: 2, to: LAYERS })
    assert.deepEqual(prefill.tokens, [8])
    assert.deepEqual(
      prefill.command.workers.map(({ worker, spans }) => [worker, spans]),
      [
        ['d1', [{ start: 0, end: 1 }]],
        [prefill.worker, [{ start: 1, end: 2 }]],
      ],
    )
    for (const [run, worker] of [
      ['a', 'w2'],
      [repair.command.part, prefill.worker],
      ['a', 'd1'],
    ] as const)
      say(worker, finished(run, worker))
    assert.equal((await first).value?.worker, 'w2')
    await news.next()
    await news.next()
    assert.equal((await news.next()).done, true)
  })

  it('asks for no work again if everything had been handed over', async () => {
    const { news, say, lose, took, sent } = start()
    const first = news.next()
    lose('w2')
    await settle()
    sent.length = 0
    say('d1', { kind: 'surveyed', run: 'a', part: 'a', worker: 'w2' })
    say('w1', finished('a', 'w1'))
    say('d1', finished('a', 'd1'))
    assert.equal((await first).value?.worker, 'w1')
    await news.next()
    assert.equal((await news.next()).done, true)
    assert.deepEqual(took('prefill'), [])
  })

  it('has what a second loss leaves made again too, at the end by the decode node', async () => {
    const { news, say, lose, took } = start({ repairers: ['d1'] })
    const first = news.next()
    lose('w1')
    lose('w2')
    await settle()
    for (const worker of ['w1', 'w2']) {
      const at = worker === 'w1' ? 0 : 2
      say('d1', { kind: 'surveyed', run: 'a', part: 'a', worker }, at, at + 1, 0, at + 1, at + 2, 0)
    }
    await settle()
    const repairs = took('prefill').slice(2)
    assert.deepEqual(
      repairs.map(({ worker, tokens }) => [worker, tokens]),
      [
        ['d1', [7, 8]],
        ['d1', [9, 10]],
      ],
    )
    say('d1', { kind: 'failed', run: 'a', code: 'out_of_memory', message: 'full' })
    await assert.rejects(first, failedAt('d1', 'out_of_memory'))
  })

  it('has one damaged block made again, and gives up on who sends a second one', async () => {
    const { news, say, took, repairs } = start()
    const first = news.next()
    const refused = { kind: 'block_refused', run: 'a', part: 'a', worker: 'w2', code: 'kv_checksum' } as const
    say('d1', { ...refused, layer: 1, start: 3, count: 1 })
    await settle()
    const again = took('prefill').slice(2)
    assert.deepEqual(
      again.map(({ tokens, command }) => [tokens, command.kind === 'prefill' && command.layers]),
      [[[10], { from: 1, to: 2 }]],
    )
    assert.equal(took('survey').length, 0)
    say('d1', { ...refused, layer: 2, start: 2, count: 1 })
    await settle()
    assert.deepEqual(
      took('survey').map(({ command }) => command.kind === 'survey' && command.worker),
      ['w2'],
    )
    assert.deepEqual(
      repairs.map(({ worker, code }) => `${worker} ${code}`),
      ['w2 kv_checksum', 'w2 kv_checksum'],
    )
    say('d1', { kind: 'failed', run: 'a', code: 'engine_failed', message: 'enough' })
    await assert.rejects(first, failedAt('d1', 'engine_failed'))
  })

  it('ends when the decode node is lost: with it goes what was computed', async () => {
    const { news, lose, sent } = start()
    const first = news.next()
    lose('d1')
    await assert.rejects(first, failedAt('d1', 'worker_lost'))
    assert.ok(sent.some(({ worker, command }) => worker === 'w1' && command.kind === 'cancel'))
  })

  it('gives up on who is the least far when nobody says anything, then asks what is missing, then for another decode node', async () => {
    const { news, say, clock, took } = start({ stallSeconds: 60 })
    const first = news.next()
    say('w1', { kind: 'layer_finished', run: 'a', layer: 0 })
    await first
    const next = news.next()
    clock.advance(60)
    await settle()
    assert.deepEqual(
      took('survey').map(({ command }) => command.kind === 'survey' && command.worker),
      ['w2'],
    )
    say('d1', { kind: 'surveyed', run: 'a', part: 'a', worker: 'w2' })
    say('w1', finished('a', 'w1'))
    await next
    const last = news.next()
    clock.advance(60)
    await settle()
    assert.deepEqual(
      took('survey').map(({ command }) => command.kind === 'survey' && command.worker),
      ['w2', 'w1'],
    )
    say('d1', { kind: 'surveyed', run: 'a', part: 'a', worker: 'w1' })
    await settle()
    clock.advance(60)
    await assert.rejects(last, failedAt('d1', 'worker_failed'))
  })

  it('gives up on who has computed all and does not get it through, before those who may wait for it', async () => {
    const { news, say, clock, took, controller } = start({ stallSeconds: 60 })
    for (let layer = 0; layer < LAYERS; layer++) {
      const next = news.next()
      say('w2', { kind: 'layer_finished', run: 'a', layer })
      await next
    }
    const next = news.next()
    clock.advance(60)
    await settle()
    const asked = took('survey').map(({ command }) => command.kind === 'survey' && command.worker)
    assert.deepEqual(asked, ['w2'])
    controller.abort()
    await assert.rejects(next, coded('cancelled'))
  })

  it('asks for what a finished worker said it had handed over, too, when another one waits', async () => {
    const { news, say, clock, took, controller } = start({ stallSeconds: 60 })
    const first = news.next()
    say('w1', finished('a', 'w1'))
    await first
    const next = news.next()
    clock.advance(60)
    await settle()
    const asked = took('survey').map(({ command }) => command.kind === 'survey' && command.worker)
    assert.deepEqual(asked, ['w1', 'w2'])
    say('d1', { kind: 'surveyed', run: 'a', part: 'a', worker: 'w1' }, 0, 1, 2)
    await settle()
    assert.deepEqual(
      took('prefill')
        .slice(2)
        .map(({ tokens }) => tokens),
      [[7]],
    )
    controller.abort()
    await assert.rejects(next, coded('cancelled'))
  })

  it('gives up on a worker that is far slower than predicted and holds up the others', async () => {
    const { news, say, clock, took } = start({ secondsLeft: 4 })
    const first = news.next()
    clock.advance(5)
    say('w2', { kind: 'layer_finished', run: 'a', layer: 0 })
    await first
    assert.equal(took('survey').length, 0, 'a layer in five seconds instead of one may be load')
    const second = news.next()
    clock.advance(2)
    say('w2', { kind: 'layer_finished', run: 'a', layer: 1 })
    await second
    assert.deepEqual(
      took('survey').map(({ command }) => command.kind === 'survey' && command.worker),
      ['w1'],
    )
  })

  it('does not give up on the only worker there is for being slow', async () => {
    const { news, say, clock, took } = start({ secondsLeft: 4, repairers: ['w1', 'd1'] })
    const first = news.next()
    clock.advance(50)
    say('w2', { kind: 'layer_finished', run: 'a', layer: 0 })
    await first
    assert.equal(took('survey').length, 0)
  })

  it('takes nothing from a worker about a part that is not its own', async () => {
    const { news, say } = start()
    const first = news.next()
    say('w3', finished('a', 'w3'))
    say('w1', { kind: 'token_sampled', run: 'a', index: 0, token: 1 })
    say('w1', { kind: 'surveyed', run: 'a', part: 'a', worker: 'w2' }, 2, 3, 0)
    say('w2', { kind: 'layer_finished', run: 'a', layer: 0 })
    const { value } = await first
    assert.ok(value?.worker === 'w2' && value.event.kind === 'layer_finished')
  })

  it('does not miss a worker that has said its last word', async () => {
    const { news, say, lose, took } = start()
    const next = news.next()
    say('w1', finished('a', 'w1'))
    lose('w1')
    assert.equal((await next).value?.event.kind, 'finished')
    void news.next()
    await settle()
    assert.equal(took('survey').length, 0)
  })
})
