import assert from 'node:assert/strict'
import { describe, it } from 'node:test'
import { simulateMany, simulateSeed } from './batch.ts'
import { FAULT_KINDS } from './faults.ts'
import { drawOptions } from './options.ts'
import { DEFECTS } from './planted.ts'
import { shrink } from './shrink.ts'

/** `npm run simulate` tries as many seeds as one has time for. */

const SEEDS = 500

/** A simulator that never gets into these would prove little. */
const MUST_BE_SEEN = [
  'a prompt was found again',
  'planned no worker',
  'planned chain of 3',
  'planned ring of 2',
  'ended by length',
  'ended by stop',
  'a decode worker with runs was killed',
  'a prefill worker with runs was killed',
  'a worker with runs was frozen',
  'a worker with runs was asked to leave',
  'a coordinator with runs went',
  'a bit of a block was flipped',
  'a block came twice',
  'frame cut in its middle',
  'sender had to wait',
  'logged kv_checksum',
  'logged out_of_memory',
  'a request was answered after it had failed',
  'a decode node was replaced',
  'a decode node was replaced in mid-answer',
  'repaired: worker_lost',
  'repaired: worker_failed',
  'repaired: kv_checksum',
  'repaired: kv_identity',
  'repaired: dial_failed',
  'blocks refused: stale_epoch',
  'a block was checked',
  'a lie came to a decode node',
  'a lie came to a neighbour',
  'a liar was found',
  'a worker was blamed for the lies of another',
  'repaired: kv_wrong',
  'a double came at the same address',
  'a double came at another address',
  'a worker with runs got a double',
  'a worker went: name_taken',
]
const MUST_END = ['done', 'cancelled', 'queue_full', 'no_decode_node', 'shutting_down', 'lost']

describe('the cluster under faults', () => {
  it(`breaks no invariant in ${SEEDS} simulations, which see what they should`, async () => {
    const totals = await simulateMany({ from: 1, seeds: SEEDS })
    assert.deepEqual(
      totals.failed.map(({ options, violations }) => ({ seed: options.seed, violations })),
      [],
    )
    const missing = [
      ...FAULT_KINDS.filter((kind) => !totals.faults.has(kind)),
      ...MUST_BE_SEEN.filter((what) => !totals.seen.has(what)),
      ...MUST_END.filter((how) => !totals.endings.has(how)),
    ]
    assert.deepEqual(missing, [])
  })

  it('has one history for a seed, and another one for the next', async () => {
    const [first, again, other] = [
      await simulateSeed(drawOptions(7)),
      await simulateSeed(drawOptions(7)),
      await simulateSeed(drawOptions(8)),
    ]
    assert.equal(first.hash, again.hash)
    assert.deepEqual(first.tail(50), again.tail(50))
    assert.notEqual(first.hash, other.hash)
  })
})

describe('a defect that is planted', () => {
  for (const { name, breaks, plant } of DEFECTS)
    it(`is found within 1,000 simulations: ${name}`, async () => {
      const { failed, seeds } = await simulateMany({ from: 1, seeds: 1000, planted: plant() })
      assert.equal(failed.length, 1, `not found in ${seeds} simulations`)
      assert.match(failed[0]!.violations.join(), breaks)
    })

  it('is shown by the least that it takes: one fault and one client', async () => {
    const { plant } = DEFECTS[0]!
    const { failed } = await simulateMany({ from: 1, seeds: 1000, planted: plant() })
    const { options, violations } = await shrink(failed[0]!, plant())
    assert.match(violations.join(), DEFECTS[0]!.breaks)
    assert.deepEqual(
      options.faults.map(({ kind }) => kind),
      ['flip'],
    )
    assert.equal(options.clients.length, 1)
  })
})
