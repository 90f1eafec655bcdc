import assert from 'node:assert/strict'
import { test } from 'node:test'
import fc from 'fast-check'
import {
  DEFAULT_QUEUE_LIMITS,
  emptyQueue,
  enqueue,
  planned,
  prefilled,
  type QueuedRun,
  type QueueLimits,
  type QueueState,
  type Room,
  release,
  remove,
  next as startNext,
  waitSeconds,
} from '../../../coordinator/runs/queue.ts'
import type { HeadraceError } from '../../../shared/errors.ts'
import { asRunId } from '../../../shared/ids.ts'

/** A thousand tokens a second, a byte each. */
const queued = (run: string, tokens: number, arrivedAt = 0): QueuedRun => ({
  run: asRunId(run),
  tokens,
  seconds: tokens / 1000,
  kvBytes: tokens,
  arrivedAt,
})
const idsOf = (runs: readonly QueuedRun[]): string[] => runs.map(({ run }) => run)
const next = (queue: QueueState, now = 0, room?: Room) => startNext(queue, now, room)
const limited = (limits: Partial<QueueLimits>): QueueState =>
  emptyQueue({ ...DEFAULT_QUEUE_LIMITS, maxWaitSeconds: 1e9, ageing: 1, ...limits })
const holding = (queue: QueueState, ...runs: QueuedRun[]): QueueState =>
  runs.reduce((state, run) => enqueue(state, run), queue)

/** Starts and ends one run after another until nothing waits. */
function startOrder(queue: QueueState): string[] {
  const started = next(queue)
  return started === undefined ? [] : [started.run.run, ...startOrder(release(started.queue, started.run.run))]
}

function refusal(action: () => unknown): HeadraceError {
  try {
    action()
  } catch (error) {
    return error as HeadraceError
  }
  return assert.fail('nothing was refused')
}

test('a run starts at once on an idle cluster', () => {
  const started = next(holding(emptyQueue(), queued('r1', 100)))
  assert.equal(started?.run.run, 'r1')
  assert.deepEqual(started?.queue.waiting, [])
  assert.deepEqual(idsOf(started!.queue.prefilling), ['r1'])
  assert.equal(next(emptyQueue()), undefined)
})

test('the shorter prompt starts first, the earlier of equal ones', () => {
  const queue = holding(emptyQueue(), queued('long', 9000), queued('b', 50), queued('a', 50), queued('mid', 700))
  assert.deepEqual(startOrder(queue), ['b', 'a', 'mid', 'long'])
})

test('a second of waiting makes up for its number of seconds of prefill', () => {
  const order = (secondArrival: number) =>
    startOrder(holding(limited({ ageing: 0.1 }), queued('long', 1100, 0), queued('short', 100, secondArrival)))
  assert.deepEqual(order(9.9), ['short', 'long'])
  assert.deepEqual(order(10), ['long', 'short'])
  assert.deepEqual(order(10.1), ['long', 'short'])
})

test('two prefill at a time, and a place is free once its KV cache is assembled', () => {
  const first = next(holding(emptyQueue(), queued('r1', 10), queued('r2', 20), queued('r3', 30)))!
  const second = next(first.queue)!
  assert.equal(second.run.run, 'r2')
  assert.equal(next(second.queue), undefined)
  const third = next(prefilled(second.queue, asRunId('r1')))
  assert.equal(third?.run.run, 'r3')
  assert.deepEqual(idsOf(third!.queue.decoding), ['r1'])
})

test('who has a part of the workers takes a part of a place', () => {
  let queue = holding(emptyQueue(), ...['r1', 'r2', 'r3', 'r4', 'r5'].map((run) => queued(run, 10)))
  queue = next(next(queue)!.queue)!.queue
  assert.equal(next(queue), undefined, 'not planned yet: each might take all')
  queue = planned(queue, asRunId('r1'), 0.5)
  queue = next(queue)!.queue
  assert.equal(next(queue), undefined)
  queue = planned(planned(queue, asRunId('r2'), 0.5), asRunId('r3'), 0.5)
  queue = planned(next(queue)!.queue, asRunId('r4'), 0.5)
  assert.deepEqual(idsOf(queue.prefilling), ['r1', 'r2', 'r3', 'r4'])
  assert.equal(next(queue), undefined, 'four halves')
  assert.equal(next(prefilled(queue, asRunId('r3')))?.run.run, 'r5')
  assert.deepEqual(planned(queue, asRunId('gone'), 0.5), queue)
})

test('six thirds are two, whatever a binary fraction says', () => {
  let queue = holding(emptyQueue(), ...['a', 'b', 'c', 'd', 'e', 'f', 'g'].map((run) => queued(run, 10)))
  for (let started = next(queue); started !== undefined; started = next(queue))
    queue = planned(started.queue, started.run.run, 1 / 3)
  assert.equal(queue.prefilling.length, 6)
})

test('a short prompt overtakes a waiting long one whichever place becomes free', () => {
  let queue = holding(emptyQueue(), queued('r1', 10), queued('r2', 20), queued('long', 9000))
  queue = next(next(queue)!.queue)!.queue
  queue = holding(queue, queued('short', 50, 1))
  for (const done of ['r1', 'r2']) assert.equal(next(prefilled(queue, asRunId(done)))?.run.run, 'short')
})

test('a run holds its decode place from its start to its end', () => {
  let queue = holding(limited({ maxPrefilling: 4, maxDecoding: 2 }), queued('r1', 1), queued('r2', 2), queued('r3', 3))
  queue = next(next(queue)!.queue)!.queue
  queue = prefilled(queue, asRunId('r1'))
  assert.equal(next(queue), undefined, 'one decodes, one prefills')
  assert.equal(next(release(queue, asRunId('r1')))?.run.run, 'r3')
  assert.equal(next(release(queue, asRunId('r2')))?.run.run, 'r3')
})

test('a client that leaves takes its run out of the queue', () => {
  const queue = holding(emptyQueue(), queued('r1', 10), queued('r2', 20))
  assert.deepEqual(startOrder(remove(queue, asRunId('r1'))), ['r2'])
})

test('what is not there can be ended without harm', () => {
  const queue = next(holding(emptyQueue(), queued('r1', 10), queued('r2', 20)))!.queue
  const stranger = asRunId('r9')
  for (const same of [prefilled(queue, stranger), release(queue, stranger), remove(queue, stranger)])
    assert.deepEqual(same, queue)
})

test('too many waiting prompts are refused, with the time that they will take', () => {
  const queue = holding(limited({ maxWaiting: 2, maxPrefilling: 1 }), queued('r1', 4000), queued('r2', 5000))
  const running = holding(next(queue)!.queue, queued('r3', 6000))
  const error = refusal(() => enqueue(running, queued('r4', 1)))
  assert.equal(error.code, 'queue_full')
  assert.deepEqual(error.details, { waiting: 2, waitingTokens: 11_000, retryAfterSeconds: 8 })
})

test('too many waiting tokens are refused, but one prompt of any length may wait', () => {
  const limits = { maxWaitingTokens: 5000 }
  const queue = holding(limited(limits), queued('huge', 80_000))
  assert.equal(refusal(() => enqueue(queue, queued('r2', 1))).code, 'queue_full')
  const fitting = holding(limited(limits), queued('r1', 3000), queued('r2', 2000))
  assert.equal(refusal(() => enqueue(fitting, queued('r3', 1))).code, 'queue_full')
})

test('who would wait too long is refused, with the time until it would not; who goes first is let in', () => {
  const limits = { maxWaitSeconds: 10, maxPrefilling: 1 }
  const running = next(holding(limited(limits), queued('r1', 6000)))!.queue
  const queue = holding(running, queued('r2', 3000), queued('r3', 4000))
  const error = refusal(() => enqueue(queue, queued('r4', 9000)))
  assert.match(error.message, /13 s until/)
  assert.equal(error.details['retryAfterSeconds'], 3)
  assert.equal(holding(queue, queued('short', 10)).waiting.length, 3)
})

test('an idle cluster makes nobody wait, however long the prompt', () => {
  assert.equal(waitSeconds(emptyQueue(), queued('r1', 1e9)), 0)
  assert.equal(holding(limited({ maxWaitSeconds: 1 }), queued('r1', 1e6)).waiting.length, 1)
})

test('the wait is longer than predicted by as much as starts have been apart of late', () => {
  let queue = limited({ maxPrefilling: 1, maxDecoding: 1 })
  queue = holding(queue, ...Array.from({ length: 6 }, (_, i) => queued(`r${i}`, 1000, i / 1e6)))
  for (let i = 0; i < 5; i++) queue = release(next(queue, i * 20)!.queue, asRunId(`r${i}`))
  assert.deepEqual([queue.secondsApart, queue.predictedApart], [20, 1])
  queue = next(queue, 100)!.queue
  assert.equal(waitSeconds(queue, queued('late', 500, 100)), 20)
  queue = holding(queue, queued('late', 500, 100))
  assert.equal(waitSeconds(queue, queued('later', 9000, 101)), 30)
})

test('the time between starts is not taken from hours in which nobody waited', () => {
  let queue = next(holding(emptyQueue(), queued('r1', 10)), 0)!.queue
  queue = release(queue, asRunId('r1'))
  queue = next(holding(queue, queued('r2', 10, 3600)), 3600)!.queue
  assert.equal(queue.secondsApart, 0)
})

test('the time to retry is never at once and never next day', () => {
  const seconds = (tokens: number) =>
    refusal(() => enqueue(holding(limited({ maxWaiting: 1 }), queued('r1', tokens)), queued('r2', 1))).details[
      'retryAfterSeconds'
    ]
  assert.equal(seconds(10), 1)
  assert.equal(seconds(1e9), 600)
})

/** A node of so many bytes, shared by all. */
const node =
  (bytes: number): Room =>
  ({ kvBytes }, started) =>
    started.reduce((sum, other) => sum + other.kvBytes, 0) + kvBytes <= bytes

test('a run waits for memory, and nobody takes it from under its nose', () => {
  let queue = next(holding(limited({}), queued('r1', 600)), 0, node(1000))!.queue
  queue = prefilled(holding(queue, queued('big', 900, 0), queued('small', 100, 3)), asRunId('r1'))
  assert.equal(next(queue, 4, node(1000)), undefined)
  assert.equal(next(release(queue, asRunId('r1')), 5, node(1000))?.run.run, 'big')
})

test('what no memory can hold does not wait for ever once nothing runs', () => {
  assert.equal(next(holding(emptyQueue(), queued('r1', 5000)), 0, node(1000))?.run.run, 'r1')
})

const arrivals = fc
  .array(fc.record({ tokens: fc.integer({ min: 1, max: 50_000 }), gap: fc.double({ min: 0, max: 5, noNaN: true }) }), {
    minLength: 1,
    maxLength: 60,
  })
  .map((runs) => {
    let arrivedAt = 0
    return runs.map(({ tokens, gap }, i) => {
      arrivedAt += gap
      return queued(`r${i}`, tokens, arrivedAt)
    })
  })

test('a prompt is overtaken only by those that arrive before its length is made up for', () => {
  fc.assert(
    fc.property(arrivals, fc.double({ min: 0.01, max: 20, noNaN: true }), (runs, ageing) => {
      const order = startOrder(holding(limited({ ageing, maxWaitingTokens: 1e9 }), ...runs))
      assert.deepEqual(order.toSorted(), runs.map(({ run }) => run).toSorted())
      for (const run of runs)
        for (const other of runs) {
          const overtakes = other.arrivedAt > run.arrivedAt && order.indexOf(other.run) < order.indexOf(run.run)
          if (overtakes) assert.ok(other.arrivedAt - run.arrivedAt <= run.seconds / ageing)
        }
    }),
    { seed: 20_260_801, numRuns: 200 },
  )
})

test('a long prompt neither starves nor starves others, whatever the mix', () => {
  const shorts = fc.array(fc.integer({ min: 20, max: 2000 }), { minLength: 50, maxLength: 150 })
  fc.assert(
    fc.property(
      shorts,
      fc.integer({ min: 10_000, max: 60_000 }),
      fc.integer({ min: 0, max: 20 }),
      (lengths, long, at) => {
        // One place, used without a break: as soon as a run ends, the next one starts. A little more comes than is done.
        let queue = limited({ maxPrefilling: 1, maxDecoding: 1, maxWaiting: 1000, maxWaitingTokens: 1e9 })
        const pending = lengths.map((tokens, i) => queued(`s${i}`, tokens, i * 0.9))
        const big = queued('long', long, at)
        const arrivals = [...pending, big].toSorted((x, y) => x.arrivedAt - y.arrivedAt)
        const startedAt = new Map<string, number>()
        let now = 0
        while (startedAt.size < lengths.length + 1) {
          while (arrivals[0] !== undefined && arrivals[0].arrivedAt <= now) queue = holding(queue, arrivals.shift()!)
          const started = next(queue, now)
          if (started === undefined) {
            now = arrivals[0]!.arrivedAt
            continue
          }
          startedAt.set(started.run.run, now)
          queue = release(started.queue, started.run.run)
          now += started.run.seconds
        }
        // Only what arrives within its own duration overtakes the long one, and the one that is being computed.
        const before = pending.filter(({ arrivedAt }) => arrivedAt <= at + big.seconds)
        const most = before.reduce((sum, { seconds }) => sum + seconds, 0) + 2
        assert.ok(
          startedAt.get('long')! - at <= most,
          `the long one waited ${startedAt.get('long')! - at} of ${most} s`,
        )
        // A short one that is there before the long one's patience has run out never waits behind it.
        for (const short of pending)
          if (short.arrivedAt < at + big.seconds - short.seconds && short.arrivedAt <= startedAt.get('long')!)
            assert.ok(startedAt.get(short.run)! <= startedAt.get('long')!)
      },
    ),
    { seed: 20_261_123, numRuns: 200 },
  )
})

test('a long prompt starts although short ones never stop coming', () => {
  let queue = holding(limited({ ageing: 1, maxWaiting: 1000 }), queued('long', 30_000, 0))
  for (let second = 0; second < 120; second++) {
    queue = holding(queue, queued(`a${second}`, 100, second), queued(`b${second}`, 100, second))
    const started = next(queue, second)!
    if (started.run.run === 'long') {
      assert.ok(second > 0 && second <= 60, `started after ${second} seconds`)
      return
    }
    queue = release(started.queue, started.run.run)
  }
  assert.fail('the long prompt never started')
})

test('limits hold whatever happens, and no run is in two places', () => {
  const action = fc.record({
    kind: fc.constantFrom('enqueue', 'next', 'prefilled', 'release', 'remove'),
    run: fc.integer({ min: 0, max: 9 }),
  })
  const limits = { maxWaiting: 4, maxWaitingTokens: 2000, maxPrefilling: 2, maxDecoding: 3 }
  fc.assert(
    fc.property(fc.array(action, { maxLength: 80 }), (actions) => {
      let queue = limited(limits)
      actions.forEach(({ kind, run }, i) => {
        const id = asRunId(`r${run}`)
        const known = idsOf([...queue.waiting, ...queue.prefilling, ...queue.decoding])
        if (kind === 'next') queue = next(queue)?.queue ?? queue
        else if (kind === 'prefilled') queue = prefilled(queue, id)
        else if (kind === 'release') queue = release(queue, id)
        else if (kind === 'remove') queue = remove(queue, id)
        else if (!known.includes(id) && queue.waiting.length < 4) queue = enqueue(queue, queued(id, 400, i))
        const all = idsOf([...queue.waiting, ...queue.prefilling, ...queue.decoding])
        assert.equal(new Set(all).size, all.length)
        assert.ok(queue.waiting.length <= 4 && queue.prefilling.length <= 2)
        assert.ok(queue.prefilling.length + queue.decoding.length <= 3)
      })
    }),
    { seed: 20_260_801, numRuns: 300 },
  )
})
