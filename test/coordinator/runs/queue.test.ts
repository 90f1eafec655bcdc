import assert from 'node:assert/strict'
import { test } from 'node:test'
import fc from 'fast-check'
import {
  DEFAULT_QUEUE_LIMITS,
  emptyQueue,
  enqueue,
  next,
  prefilled,
  type QueuedRun,
  type QueueLimits,
  type QueueState,
  release,
  remove,
} from '../../../coordinator/runs/queue.ts'
import type { HeadraceError } from '../../../shared/errors.ts'
import { asRunId } from '../../../shared/ids.ts'

const queued = (run: string, tokens: number, arrivedAt = 0): QueuedRun => ({ run: asRunId(run), tokens, arrivedAt })
const limited = (limits: Partial<QueueLimits>): QueueState => emptyQueue({ ...DEFAULT_QUEUE_LIMITS, ...limits })
const holding = (queue: QueueState, ...runs: QueuedRun[]): QueueState =>
  runs.reduce((state, run) => enqueue(state, run, 0), queue)

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
  assert.deepEqual(started?.queue.prefilling, ['r1'])
  assert.equal(next(emptyQueue()), undefined)
})

test('the shorter prompt starts first, the earlier of equal ones', () => {
  const queue = holding(emptyQueue(), queued('long', 9000), queued('b', 50), queued('a', 50), queued('mid', 700))
  assert.deepEqual(startOrder(queue), ['b', 'a', 'mid', 'long'])
})

test('a second of waiting makes up for its number of tokens', () => {
  const order = (secondArrival: number) =>
    startOrder(
      holding(limited({ ageTokensPerSecond: 100 }), queued('long', 1100, 0), queued('short', 100, secondArrival)),
    )
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
  assert.deepEqual(third?.queue.decoding, ['r1'])
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
  const queue = holding(limited({ maxWaiting: 2 }), queued('r1', 1000), queued('r2', 2000))
  const error = refusal(() => enqueue(queue, queued('r3', 1), 400))
  assert.equal(error.code, 'queue_full')
  assert.deepEqual(error.details, { waiting: 2, waitingTokens: 3000, retryAfterSeconds: 8 })
})

test('too many waiting tokens are refused, but one prompt of any length may wait', () => {
  const limits = { maxWaitingTokens: 5000 }
  const queue = holding(limited(limits), queued('huge', 80_000))
  assert.equal(refusal(() => enqueue(queue, queued('r2', 1), 100)).code, 'queue_full')
  const fitting = holding(limited(limits), queued('r1', 3000), queued('r2', 2000))
  assert.equal(refusal(() => enqueue(fitting, queued('r3', 1), 100)).code, 'queue_full')
})

test('the time to retry is never at once and never next day', () => {
  const seconds = (tokens: number, rate: number) =>
    refusal(() => enqueue(holding(limited({ maxWaiting: 1 }), queued('r1', tokens)), queued('r2', 1), rate)).details[
      'retryAfterSeconds'
    ]
  assert.equal(seconds(10, 1e6), 1)
  assert.equal(seconds(10, 0), 1)
  assert.equal(seconds(1e6, 1), 600)
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
    fc.property(arrivals, fc.integer({ min: 1, max: 20_000 }), (runs, ageTokensPerSecond) => {
      const order = startOrder(holding(limited({ ageTokensPerSecond, maxWaitingTokens: 1e9 }), ...runs))
      assert.deepEqual(order.toSorted(), runs.map(({ run }) => run).toSorted())
      for (const run of runs)
        for (const other of runs) {
          const overtakes = other.arrivedAt > run.arrivedAt && order.indexOf(other.run) < order.indexOf(run.run)
          if (overtakes) assert.ok(other.arrivedAt - run.arrivedAt <= run.tokens / ageTokensPerSecond)
        }
    }),
    { seed: 20_260_801, numRuns: 200 },
  )
})

test('a long prompt starts although short ones never stop coming', () => {
  let queue = holding(limited({ ageTokensPerSecond: 1000, maxWaiting: 1000 }), queued('long', 30_000, 0))
  for (let second = 0; second < 120; second++) {
    queue = holding(queue, queued(`a${second}`, 100, second), queued(`b${second}`, 100, second))
    const started = next(queue)!
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
        const known = [...queue.waiting.map((other) => other.run), ...queue.prefilling, ...queue.decoding]
        if (kind === 'next') queue = next(queue)?.queue ?? queue
        else if (kind === 'prefilled') queue = prefilled(queue, id)
        else if (kind === 'release') queue = release(queue, id)
        else if (kind === 'remove') queue = remove(queue, id)
        else if (!known.includes(id) && queue.waiting.length < 4) queue = enqueue(queue, queued(id, 400, i), 100)
        const all = [...queue.waiting.map((other) => other.run), ...queue.prefilling, ...queue.decoding]
        assert.equal(new Set(all).size, all.length)
        assert.ok(queue.waiting.length <= 4 && queue.prefilling.length <= 2)
        assert.ok(queue.prefilling.length + queue.decoding.length <= 3)
      })
    }),
    { seed: 20_260_801, numRuns: 300 },
  )
})
