import assert from 'node:assert/strict'
import { describe, it } from 'node:test'
import { joined, planRepair } from '../../../coordinator/planning/repair.ts'
import { asWorkerId } from '../../../shared/ids.ts'
import { blocksOf, type Span } from '../../../shared/plan.ts'
import { seededRandom } from '../../support/random.ts'

const BLOCK = 8

/** Neighbouring spans of up to ten blocks each, and what is missing of their blocks. */
function cutAndTorn(seed: number): { blocks: Span[]; missing: Span[] } {
  const random = seededRandom(seed)
  const spans: Span[] = []
  for (let start = 0; start < 200; ) {
    const end = start + 1 + Math.floor(random() * 10 * BLOCK)
    spans.push({ start, end })
    start = end
  }
  const blocks = blocksOf(spans, BLOCK)
  return { blocks, missing: blocks.filter(() => random() < 0.7) }
}

describe('blocks that are missing', () => {
  it('are joined to spans that are cut into the same ones again, by whoever they are given to', () => {
    for (let seed = 0; seed < 200; seed++) {
      const { blocks, missing } = cutAndTorn(seed)
      assert.deepEqual(blocksOf(joined(missing, BLOCK), BLOCK), missing)
      assert.deepEqual(blocksOf(joined(blocks, BLOCK), BLOCK), blocks)
      const repairers = [1, 2, 3].map((speed) => ({
        worker: asWorkerId(`w${speed}`),
        cost: { o: 0, a: 1 / speed, b: 0 },
        busySeconds: 0,
      }))
      const pieces = planRepair({
        missing: joined(missing, BLOCK),
        blockTokens: BLOCK,
        layers: { from: 0, to: 2 },
        repairers,
      })
      assert.deepEqual(
        pieces.flatMap(({ spans }) => blocksOf(spans, BLOCK)),
        missing,
      )
    }
  })

  it('are one span where a span was', () => {
    const span = { start: 3, end: 100 }
    assert.deepEqual(joined(blocksOf([span], BLOCK), BLOCK), [span])
  })
})
