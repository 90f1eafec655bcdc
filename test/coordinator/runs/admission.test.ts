import assert from 'node:assert/strict'
import { describe, it } from 'node:test'
import { Admission } from '../../../coordinator/runs/admission.ts'
import { HeadraceError } from '../../../shared/errors.ts'
import { asRunId } from '../../../shared/ids.ts'

const clock = { now: () => 0, sleep: () => Promise.resolve() }
const limits = { maxWaiting: 2, maxWaitingTokens: 1000, maxPrefilling: 1, maxDecoding: 2, ageTokensPerSecond: 1 }
const live = (): AbortSignal => new AbortController().signal
const coded = (code: string) => (error: unknown) => error instanceof HeadraceError && error.code === code

describe('admission', () => {
  const enter = (admission: Admission, name: string, tokens: number, signal = live()) =>
    admission.enter(asRunId(name), tokens, 0, signal)

  it('lets one prompt be prefilled at a time, and the next one when its cache is assembled', async () => {
    const admission = new Admission(clock, limits)
    const first = await enter(admission, 'a', 10)
    const second = enter(admission, 'b', 10)
    assert.equal(admission.waiting, 1)
    first.prefilled()
    await second
    assert.deepEqual([admission.running, admission.waiting], [2, 0])
  })

  it('lets short prompts go first', async () => {
    const admission = new Admission(clock, limits)
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

  it('refuses at once when the queue is full, and gives a place up when its client leaves', async () => {
    const admission = new Admission(clock, limits)
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

  it('does not admit who has left already', async () => {
    await assert.rejects(enter(new Admission(clock, limits), 'a', 1, AbortSignal.abort()), coded('cancelled'))
  })
})
