import assert from 'node:assert/strict'
import { describe, it } from 'node:test'
import type { Engine, Hidden, Kv } from '../../../worker/engine/engine.ts'
import { engineScope } from '../../../worker/engine/engine-scope.ts'

/** Counts tensors, and refuses what has been given back. */
function countingEngine() {
  const live = new Set<object>()
  const made = <T>(): T => {
    const tensor = { tokens: 1, start: 0, capacity: 1 }
    live.add(tensor)
    return tensor as T
  }
  const engine = {
    name: 'reference',
    shape: {},
    chunkTokens: 1,
    embed: async () => made(),
    project: async () => made(),
    mix: async (_layer: number, ...consumed: object[]) => {
      for (const tensor of consumed) assert.ok(live.delete(tensor))
      return made()
    },
    lastRow: () => made(),
    accumulator: () => made(),
    createKv: () => made(),
    release: (...tensors: object[]) => {
      for (const tensor of tensors) assert.ok(live.delete(tensor), 'released twice')
    },
  } as unknown as Engine
  return { engine, live }
}

describe('an engine for one run', () => {
  it('gives back what the run has left, wherever it ended, and nothing twice', async () => {
    const { engine, live } = countingEngine()
    const others = engine.createKv(0, 1)
    const scope = engineScope(engine)
    const x: Hidden = await scope.engine.embed(Int32Array.of(1))
    const kv: Kv = scope.engine.createKv(0, 1)
    const q = await scope.engine.project(0, x, 0, kv)
    const acc = scope.engine.accumulator(q)
    scope.engine.release(q)
    const mixed = await scope.engine.mix(0, x, acc)
    scope.engine.lastRow(mixed)
    assert.equal(live.size, 4)
    scope.releaseRest()
    assert.deepEqual([...live], [others])
    scope.releaseRest()
    assert.equal(live.size, 1)
  })
})
