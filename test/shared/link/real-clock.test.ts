import assert from 'node:assert/strict'
import { it } from 'node:test'
import { HeadraceError } from '../../../shared/errors.ts'
import { realClock } from '../../../shared/link/real-clock.ts'

it('time only moves forward, in seconds, while the clock sleeps', async () => {
  const start = realClock.now()
  await realClock.sleep(0.02)
  const elapsed = realClock.now() - start
  // Node counts whole milliseconds from the start of a turn, so a timer may fire that much early.
  assert.ok(elapsed > 0.018, `slept ${elapsed} s`)
})

it('a sleep is aborted with the coded reason, before and while it lasts', async () => {
  const abort = new AbortController()
  const sleeping = realClock.sleep(3600, abort.signal)
  abort.abort(new HeadraceError('shutting_down', 'enough'))
  await assert.rejects(sleeping, { code: 'shutting_down' })
  await assert.rejects(realClock.sleep(3600, abort.signal), { code: 'shutting_down' })
  await assert.rejects(realClock.sleep(3600, AbortSignal.abort()), { code: 'cancelled' })
})

it('a sleep longer than timers can count does not end at once', async () => {
  const abort = new AbortController()
  const sleeping = realClock.sleep(1e9, abort.signal)
  await realClock.sleep(0)
  abort.abort()
  await assert.rejects(sleeping, { code: 'cancelled' })
})
