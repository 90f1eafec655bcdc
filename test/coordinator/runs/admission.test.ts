import assert from 'node:assert/strict'
import { describe, it } from 'node:test'
import { Admission } from '../../../coordinator/runs/admission.ts'
import { HeadraceError } from '../../../shared/errors.ts'
import { asRunId } from '../../../shared/ids.ts'

const clock = { now: () => 0, sleep: () => Promise.resolve() }
const limits = {
  maxWaiting: 2,
  maxWaitingTokens: 1000,
  maxPrefilling: 1,
  maxDecoding: 2,
  maxWaitSeconds: 1e9,
  ageing: 1,
}
const secondsOf = (tokens: number): number => tokens
const live = (): AbortSignal => new AbortController().signal
const coded = (code: string) => (error: unknown) => error instanceof HeadraceError && error.code === code

describe('admission', () => {
  const enter = (admission: Admission, name: string, tokens: number, signal = live()) =>
    admission.enter(asRunId(name), { tokens, kvBytes: tokens }, signal)

  it('lets one prompt be prefilled at a time, and the next one when its cache is assembled', async () => {
    const admission = new Admission({ clock, secondsOf, limits })
    const first = await enter(admission, 'a', 10)
    const second = enter(admission, 'b', 10)
    assert.equal(admission.waiting, 1)
    first.prefilled()
    await second
    assert.deepEqual([admission.running, admission.waiting], [2, 0])
  })

  it('lets short prompts go first', async () => {
    const admission = new Admission({ clock, secondsOf, limits })
    const first = await enter(admission, 'a', 10)
    const order: string[] = []
    const long = enter(admission, 'long', 500).then((turn) => {
      order.push('long')
      return turn
    })
    const short = enter(admission, 'short', 5).then((turn) => {
      order.push('short')
      return turn
    })
    first.done()
    ;(await short).done()
    await long
    assert.deepEqual(order, ['short', 'long'])
  })

  it('keeps prompts of one length in their order, whatever is learnt between their arrivals', async () => {
    let perToken = 1
    const admission = new Admission({ clock, secondsOf: (tokens) => tokens * perToken, limits })
    const order: string[] = []
    const entered = async (name: string): Promise<void> => {
      const turn = await enter(admission, name, 10)
      order.push(name)
      turn.done()
    }
    const first = await enter(admission, 'a', 10)
    const second = entered('b')
    perToken = 0.5
    const third = entered('c')
    first.done()
    await Promise.all([second, third])
    assert.deepEqual(order, ['b', 'c'])
  })

  it('refuses at once when the queue is full, and gives a place up when its client leaves', async () => {
    const admission = new Admission({ clock, secondsOf, limits })
    const first = await enter(admission, 'a', 10)
    const leaving = new AbortController()
    const second = enter(admission, 'b', 10, leaving.signal)
    const third = enter(admission, 'c', 10)
    await assert.rejects(enter(admission, 'd', 10), coded('queue_full'))
    leaving.abort()
    await assert.rejects(second, coded('cancelled'))
    first.done()
    ;(await third).done()
    assert.deepEqual([admission.running, admission.waiting], [0, 0])
  })

  it('starts the one behind when the one that waits for memory leaves', async () => {
    const small = { check: () => undefined, room: ({ kvBytes }: { kvBytes: number }) => kvBytes < 100 }
    const admission = new Admission({ clock, secondsOf, limits: { ...limits, maxPrefilling: 2 }, memory: small })
    await enter(admission, 'a', 10)
    const leaving = new AbortController()
    const big = enter(admission, 'big', 500, leaving.signal)
    // With the same score as the big one, and later.
    const behind = admission.enter(asRunId('c'), { tokens: 500, kvBytes: 10 }, live())
    assert.deepEqual([admission.running, admission.waiting], [1, 2])
    leaving.abort()
    await assert.rejects(big, coded('cancelled'))
    await behind
    assert.deepEqual([admission.running, admission.waiting], [2, 0])
  })

  it('refuses at once what no node can ever hold', async () => {
    const check = () => {
      throw new HeadraceError('plan_impossible', 'too large')
    }
    await assert.rejects(
      enter(new Admission({ clock, secondsOf, limits, memory: { check, room: () => true } }), 'a', 1),
      coded('plan_impossible'),
    )
  })

  it('does not admit who has left already', async () => {
    await assert.rejects(
      enter(new Admission({ clock, secondsOf, limits }), 'a', 1, AbortSignal.abort()),
      coded('cancelled'),
    )
  })
})
