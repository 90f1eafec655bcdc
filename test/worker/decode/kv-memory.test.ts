import assert from 'node:assert/strict'
import { describe, it } from 'node:test'
import { setImmediate } from 'node:timers/promises'
import { KvMemory, type PromptKv } from '../../../worker/decode/kv-memory.ts'
import type { Kv } from '../../../worker/engine/engine.ts'
import { coded } from '../../support/coded.ts'
import { ManualClock } from '../../support/manual-clock.ts'

function start(budgetBytes = 100) {
  const clock = new ManualClock()
  const released: Kv[] = []
  const told: string[][] = []
  const memory = new KvMemory({
    budgetBytes,
    clock,
    engine: { release: (...tensors) => released.push(...(tensors as Kv[])) },
    onKept: (names) => told.push([...names]),
  })
  /** A run takes memory, computes a prompt in there, and ends. */
  const keep = (name: string, bytes: number): PromptKv => {
    const kv = { promptTokens: 5, capacity: 8, kv_layers: [{ start: 0, capacity: 8 }], logits: Float32Array.of(1) }
    memory.takeFor(bytes, () => kv)
    memory.keep(name, kv, bytes)
    return kv
  }
  return { clock, memory, released, told, keep }
}
const prompt = { promptTokens: 5, capacity: 8 }

describe('the KV memory of a decode node', () => {
  it('refuses by `out_of_memory` what does not fit beside the runs, and makes nothing then', () => {
    const { memory } = start()
    assert.equal(
      memory.takeFor(60, () => 'made'),
      'made',
    )
    assert.throws(() => memory.takeFor(41, () => assert.fail()), coded('out_of_memory'))
    memory.takeFor(40, () => undefined)
    memory.give(60)
    assert.equal(memory.taken, 40)
  })

  it('counts nothing for what could not be made', () => {
    const { memory } = start()
    assert.throws(() =>
      memory.takeFor(60, () => {
        throw new Error('no memory on the device')
      }),
    )
    assert.equal(memory.taken, 0)
  })

  it('gives what was kept to the run that resumes it, with its memory, once', () => {
    const { memory, released, told, keep } = start()
    const kv = keep('a', 60)
    assert.deepEqual([memory.taken, memory.kept], [0, { caches: 1, bytes: 60 }])
    assert.equal(memory.resume('a', prompt).kv_layers, kv.kv_layers)
    assert.deepEqual([memory.taken, memory.kept], [60, { caches: 0, bytes: 0 }])
    assert.throws(() => memory.resume('a', prompt), coded('kv_gone'))
    assert.deepEqual([released, told], [[], [['a'], []]])
  })

  for (const other of [
    { promptTokens: 6, capacity: 8 },
    { promptTokens: 5, capacity: 9 },
  ])
    it(`does not resume ${JSON.stringify(other)} from a prompt of 5 tokens with room for 8`, () => {
      const { memory, keep } = start()
      keep('a', 60)
      assert.throws(() => memory.resume('a', other), coded('kv_gone'))
    })

  it('lets what was kept make way for a run, the oldest first, and no more of it than needed', () => {
    const { memory, released, told, keep } = start()
    const [a] = [keep('a', 30), keep('b', 30), keep('c', 30)]
    memory.takeFor(40, () => undefined)
    assert.deepEqual([released, told.at(-1)], [[...a.kv_layers], ['b', 'c']])
    assert.ok(memory.taken + memory.kept.bytes <= 100)
  })

  it('keeps four at most, and of each name the last', () => {
    const { memory, released, told, keep } = start(1000)
    for (const name of ['a', 'b', 'c', 'd', 'b']) keep(name, 10)
    assert.deepEqual(told.at(-1), ['a', 'c', 'd', 'b'])
    assert.equal(released.length, 1)
    keep('e', 10)
    assert.deepEqual(told.at(-1), ['c', 'd', 'b', 'e'])
    assert.deepEqual(memory.kept, { caches: 4, bytes: 40 })
  })

  it('lets go of what nobody has asked for within two minutes, and of nothing that a run has taken over', async () => {
    const { clock, memory, released, told, keep } = start()
    const a = keep('a', 30)
    clock.advance(119)
    keep('b', 30)
    memory.resume('b', prompt)
    clock.advance(1)
    await setImmediate()
    assert.deepEqual([released, told.at(-1)], [[...a.kv_layers], []])
    clock.advance(120)
    await setImmediate()
    assert.deepEqual([released.length, memory.taken], [1, 30])
  })

  it('keeps nothing any more when it is closed', () => {
    const { memory, released, told, keep } = start()
    const a = keep('a', 30)
    memory.close()
    const b = keep('b', 30)
    assert.deepEqual([released, told.at(-1)], [[...a.kv_layers, ...b.kv_layers], []])
    assert.deepEqual([memory.taken, memory.kept.bytes], [0, 0])
  })
})
