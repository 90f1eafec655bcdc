import assert from 'node:assert/strict'
import { describe, it } from 'node:test'
import { RunStore } from '../../../coordinator/trace/store.ts'
import { tracedReport } from '../../support/sample-trace.ts'

const stored = (number: number) => ({ created: number, report: tracedReport(`run-${number}`) })
const numbers = (store: RunStore) => store.recent().map(({ created }) => created)

describe('the store of runs', () => {
  it('has the latest first, and finds each by its id', () => {
    const store = new RunStore()
    for (const number of [1, 2, 3]) store.add(stored(number))
    assert.deepEqual(numbers(store), [3, 2, 1])
    assert.equal(store.get('run-2')?.created, 2)
    assert.equal(store.get('run-4'), undefined)
  })

  it('keeps 64 runs', () => {
    const store = new RunStore()
    for (let number = 0; number < 100; number++) store.add(stored(number))
    assert.deepEqual(
      numbers(store),
      Array.from({ length: 64 }, (_, i) => 99 - i),
    )
    assert.equal(store.get('run-35'), undefined)
  })

  it('keeps fewer when their traces are large', () => {
    const bytes = stored(0).report.trace.workers.reduce((sum, worker) => sum + worker.bytes.length, 0)
    const store = new RunStore(3 * bytes + 1)
    for (let number = 0; number < 10; number++) store.add(stored(number))
    assert.deepEqual(numbers(store), [9, 8, 7])
    assert.deepEqual(new RunStore(1).recent(), [])
  })
})
