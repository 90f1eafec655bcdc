import assert from 'node:assert/strict'
import { describe, it } from 'node:test'
import { Progress } from '../../../coordinator/runs/progress.ts'
import { asRunId } from '../../../shared/ids.ts'
import { ManualClock } from '../../support/manual-clock.ts'

describe('progress', () => {
  const start = () => {
    const clock = new ManualClock()
    const progress = new Progress(clock)
    return { clock, watch: (run: string, seconds: number) => progress.watch(asRunId(run), seconds) }
  }

  it('of a lone run is what its workers say', () => {
    const { clock, watch } = start()
    const run = watch('a', 60)
    clock.advance(50)
    assert.equal(run.secondsLeft(), 10)
    run.heard()
    assert.equal(run.secondsLeft(), 60)
    clock.advance(61)
    assert.ok(run.secondsLeft() <= 0)
  })

  it('of an earlier run is that of later ones, not the other way round', () => {
    const { clock, watch } = start()
    const [first, second, third] = [watch('a', 60), watch('b', 60), watch('c', 60)]
    clock.advance(50)
    second.heard()
    assert.deepEqual(
      [first, second, third].map((run) => run.secondsLeft()),
      [10, 60, 60],
    )
    first.heard()
    clock.advance(59)
    assert.deepEqual(
      [first, second, third].map((run) => run.secondsLeft()),
      [1, 1, 1],
    )
  })

  it('is measured by the slowest run ahead, and by a run itself once that is done', () => {
    const { clock, watch } = start()
    const [first, second] = [watch('a', 600), watch('b', 60)]
    clock.advance(500)
    assert.equal(second.secondsLeft(), 100)
    first.done()
    assert.equal(second.secondsLeft(), 60)
  })

  it('no longer depends on an earlier run that answers, however long its answer', () => {
    const { clock, watch } = start()
    const [first, second] = [watch('a', 600), watch('b', 60)]
    clock.advance(100)
    first.answers()
    assert.equal(second.secondsLeft(), 60)
    for (let token = 0; token < 10; token++) {
      clock.advance(6)
      first.heard()
    }
    assert.equal(second.secondsLeft(), 0)
    assert.equal(first.secondsLeft(), 600)
  })
})
