import assert from 'node:assert/strict'
import { describe, it } from 'node:test'
import type { ChromeEvent } from '../../coordinator/trace/chrome.ts'
import { heldKvBytes, runAhead, storedWeightBytes } from './harness/budget.ts'
import { PRESETS } from './models/presets.ts'

const shape = PRESETS.smol135

describe('what a process should need', () => {
  it('is the weights as they are kept', () => {
    assert.equal(storedWeightBytes(shape, 'f32'), 4 * 134_515_008)
    assert.equal(storedWeightBytes(shape, 'bf16'), 2 * 134_515_008)
    const table = 49152 * 576
    assert.equal(storedWeightBytes(shape, 'int8'), 134_515_008 + table)
    assert.equal(storedWeightBytes(shape, 'int4'), (134_515_008 - table) * (18 / 32) + table)
    assert.equal(storedWeightBytes(shape, 'f32', true), 4 * 134_515_008 + 2 * table)
    assert.equal(storedWeightBytes(shape, 'bf16', true), 2 * 134_515_008)
    assert.equal(storedWeightBytes({ ...shape, tiedHead: false }, 'bf16', true), 2 * (134_515_008 + table))
  })

  it('is KV of own tokens, three layers of those before them, and all of it at the decode node', () => {
    const workers = [
      { id: 'a', spans: [[0, 600]] as [number, number][], tokens: 600 },
      { id: 'b', spans: [[600, 1000]] as [number, number][], tokens: 400 },
    ]
    const prefill = {
      strategy: 'chain',
      workers,
      decode: 'd',
      queue_seconds: 0,
      ttft_seconds: 1,
      predicted_ttft_seconds: 1,
    }
    const layer = 2 * 3 * 64 * 4
    const chain = heldKvBytes(shape, 1001, prefill)
    assert.deepEqual(
      [...chain],
      [
        ['a', 600 * layer],
        ['b', (400 + 1800) * layer],
        ['d', 1001 * 30 * layer],
      ],
    )
    assert.equal(heldKvBytes(shape, 1001, { ...prefill, strategy: 'ring' }).get('a'), (600 + 1200) * layer)
  })

  it('counts layers that have come and are not finished', () => {
    const event = (name: string, layer: number, ts: number, dur = 10): ChromeEvent => ({
      ph: 'X',
      name,
      pid: 2,
      tid: 1,
      ts,
      dur,
      args: { layer },
    })
    const traceEvents: ChromeEvent[] = [
      { ph: 'M', name: 'process_name', pid: 2, tid: 0, ts: 0, args: { name: 'worker-2' } },
      event('receive', 0, 0),
      event('mix', 0, 40),
      event('mix', 0, 60),
      event('receive', 1, 55), // 0 is not finished before 70
      event('receive', 2, 75),
      event('receive', 3, 76),
    ]
    assert.deepEqual([...runAhead({ traceEvents, displayTimeUnit: 'ms' })], [['worker-2', 3]])
    assert.deepEqual([...runAhead({ traceEvents: traceEvents.slice(0, 4), displayTimeUnit: 'ms' })], [['worker-2', 1]])
  })
})
