import assert from 'node:assert/strict'
import { describe, it } from 'node:test'
import type { Strategy, Wire } from '../../../shared/plan.ts'
import type { PrefillAssignment } from '../../../shared/protocol/control.ts'
import { encodingsOf } from '../../../worker/prefill/encodings.ts'

const LAYERS = 3

function assignment(strategy: Strategy, rank: number, size: number, prefixWire: Wire, handoffWire: Wire) {
  const workers = Array.from({ length: size }, (_, i) => ({
    worker: `w${i}`,
    url: '',
    spans: [{ start: 10 * i, end: 10 * i + 10 }],
    prefixWire: i === rank ? prefixWire : 'f32',
    handoffWire: i === rank ? handoffWire : 'f32',
  }))
  const layers = { from: 0, to: LAYERS }
  return {
    kind: 'prefill',
    run: 'r',
    strategy,
    rank,
    workers,
    decode: 'd',
    blockTokens: 4,
    layers,
  } as PrefillAssignment
}

describe('the encodings of own blocks', () => {
  for (const [strategy, rank] of [
    ['chain', 0],
    ['chain', 1],
    ['ring', 0],
    ['ring', 2],
  ] as const) {
    it(`are two where the next worker and the decode node get different ones (${strategy}, rank ${rank})`, () => {
      assert.deepEqual(encodingsOf(assignment(strategy, rank, 3, 'int8', 'f16'), 1, LAYERS), [
        { wire: 'int8', uses: ['prefix'] },
        { wire: 'f16', uses: ['handoff'] },
      ])
    })

    it(`is one where both get the same (${strategy}, rank ${rank})`, () => {
      const encodings = encodingsOf(assignment(strategy, rank, 3, 'f16', 'f16'), 0, LAYERS)
      assert.deepEqual(encodings, [{ wire: 'f16', uses: ['prefix', 'handoff'] }])
    })

    it(`is the decode node's alone in the last layer (${strategy}, rank ${rank})`, () => {
      const encodings = encodingsOf(assignment(strategy, rank, 3, 'int8', 'f16'), LAYERS - 1, LAYERS)
      assert.deepEqual(encodings, [{ wire: 'f16', uses: ['handoff'] }])
    })
  }

  for (const [strategy, rank, size] of [
    ['solo', 0, 1],
    ['chain', 2, 3],
    ['chain', 0, 1],
    ['ring', 0, 1],
  ] as const)
    it(`is the decode node's alone for a worker that nobody follows (${strategy}, ${rank} of ${size})`, () => {
      const encodings = encodingsOf(assignment(strategy, rank, size, 'int8', 'f16'), 0, LAYERS)
      assert.deepEqual(encodings, [{ wire: 'f16', uses: ['handoff'] }])
    })

  it('are none in layers below those that are missing', () => {
    const repair = { ...assignment('solo', 0, 1, 'f32', 'f16'), layers: { from: 1, to: 2 } }
    assert.deepEqual(encodingsOf(repair, 0, LAYERS), [])
    assert.deepEqual(encodingsOf(repair, 1, LAYERS), [{ wire: 'f16', uses: ['handoff'] }])
  })
})
