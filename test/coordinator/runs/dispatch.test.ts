import assert from 'node:assert/strict'
import { describe, it } from 'node:test'
import { dispatch, type RunFollower, type Workers } from '../../../coordinator/runs/dispatch.ts'
import type { RunRequest } from '../../../coordinator/runs/events.ts'
import { Progress } from '../../../coordinator/runs/progress.ts'
import { HeadraceError } from '../../../shared/errors.ts'
import { asRunId } from '../../../shared/ids.ts'
import type { Command } from '../../../shared/protocol/control.ts'
import { ManualClock } from '../../support/manual-clock.ts'
import { chainPlan } from '../../support/scripted-runs.ts'

const RUN = asRunId('run')
const request: RunRequest = {
  promptTokens: Int32Array.of(7, 8, 9, 10, 11),
  maxTokens: 3,
  sampling: { temperature: 0, topP: 1, topK: 0, seed: 0 },
  stopTokens: [2],
}

/** Workers that say nothing by themselves; what they are sent is written down. */
function silentWorkers() {
  const sent: { worker: string; command: Command; tokens: number[] }[] = []
  let follower: RunFollower | undefined
  const workers: Workers = {
    urlOf: (worker) => `ws://${worker}`,
    ticket: ({ run, source, target, purpose }) => `${run} ${source} ${target} ${purpose}`,
    has: () => true,
    send: (worker, command, payload) => {
      const bytes = payload?.slice() ?? new Uint8Array()
      sent.push({ worker, command, tokens: [...new Int32Array(bytes.buffer)] })
    },
    follow: (_run, who) => {
      follower = who
      return () => {
        follower = undefined
      }
    },
  }
  return { workers, sent, follower: () => follower! }
}

const coded = (code: string) => (error: unknown) => error instanceof HeadraceError && error.code === code

describe('a dispatched run', () => {
  const plan = chainPlan(5)
  const start = (seconds = 60) => {
    const clock = new ManualClock()
    const silent = silentWorkers()
    const controller = new AbortController()
    const progress = new Progress(clock)
    const watch = progress.watch(RUN, seconds)
    const news = dispatch(RUN, plan, request, silent.workers, { clock, watch }, controller.signal)
    return { ...silent, clock, controller, news }
  }

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
  })

  it('gives each worker tickets for those it fetches from, and new ones while it lasts', async () => {
    const { news, sent, clock, controller } = start()
    const first = news.next()
    const tickets = () =>
      sent.map(({ worker, command }) => [worker, 'tickets' in command ? command.tickets : undefined])
    const prefill = [
      ['w1', [{ source: 'd1', ticket: `${RUN} d1 w1 prefix` }]],
      [
        'w2',
        [
          { source: 'w1', ticket: `${RUN} w1 w2 prefix` },
          { source: 'd1', ticket: `${RUN} d1 w2 prefix` },
        ],
      ],
    ]
    const decode = ['w1', 'w2'].map((source) => ({ source, ticket: `${RUN} ${source} d1 handoff` }))
    assert.deepEqual(tickets(), [['d1', decode], ...prefill])
    sent.length = 0
    clock.advance(30)
    await clock.sleeping(30)
    assert.deepEqual(tickets(), prefill)
    controller.abort()
    await assert.rejects(first, coded('cancelled'))
  })

  it('is given up, on every worker, when none says anything for too long', async () => {
    const { news, sent, clock } = start(60)
    const first = news.next()
    clock.advance(59)
    clock.advance(1)
    await assert.rejects(first, coded('worker_failed'))
    const cancelled = sent.filter(({ command }) => command.kind === 'cancel')
    assert.deepEqual(cancelled.map(({ worker, command }) => `${worker} ${command.kind}`).sort(), [
      'd1 cancel',
      'w1 cancel',
      'w2 cancel',
    ])
  })

  it('is not given up while a run ahead of it gets on, but soon after that one does not', async () => {
    const clock = new ManualClock()
    const progress = new Progress(clock)
    const ahead = progress.watch(asRunId('ahead'), 60)
    const watch = progress.watch(RUN, 60)
    const { workers } = silentWorkers()
    const news = dispatch(RUN, plan, request, workers, { clock, watch }, new AbortController().signal)
    const first = news.next()
    clock.advance(10)
    for (let layer = 0; layer < 5; layer++) {
      clock.advance(40)
      ahead.heard()
      clock.advance(10)
      await clock.sleeping(50)
    }
    clock.advance(50)
    await assert.rejects(first, coded('worker_failed'))
  })

  it('has all the time again after each report', async () => {
    const { news, clock, follower } = start(60)
    for (let layer = 0; layer < 5; layer++) {
      const next = news.next()
      clock.advance(50)
      follower().onEvent('w1', { kind: 'layer_finished', run: RUN, layer }, new Uint8Array())
      assert.equal((await next).value?.event.kind, 'layer_finished')
    }
  })

  it('does not miss a worker that has said its last word', async () => {
    const { news, follower } = start()
    const next = news.next()
    const zero = { tokens: 2, computeSeconds: 0, attendSeconds: 0, waitSeconds: 0, sendSeconds: 0, sent: [] }
    const report = { worker: 'w1', role: 'prefill' as const, ...zero }
    follower().onEvent('w1', { kind: 'finished', run: RUN, report }, new Uint8Array())
    follower().onLost('w1', new HeadraceError('link_closed', 'left in good order'))
    assert.equal((await next).value?.event.kind, 'finished')
    follower().onLost('w2', new HeadraceError('link_closed', 'killed'))
    await assert.rejects(news.next(), coded('worker_lost'))
  })
})
