import assert from 'node:assert/strict'
import { it } from 'node:test'
import { Incoming } from '../../../worker/kv/incoming.ts'
import type { DeliveredBlock } from '../../../worker/prefill/exchange.ts'

const block = (id: number, length: number): DeliveredBlock => {
  const bytes = new Uint8Array(new SharedArrayBuffer(length + 64), 64).fill(id)
  return { id, layer: 0, start: 0, count: 1, dtype: 'f32', crc32: 0, bytes }
}

it('a delivered block is copied into memory of this thread, and its own is told to be free', () => {
  const used: number[] = []
  const incoming = new Incoming((ids) => used.push(...ids))
  for (const [id, length] of [100, 30, 200, 100].entries()) {
    const delivered = block(id, length)
    const { bytes, ...rest } = incoming.take(delivered)
    delivered.bytes.fill(0xff)
    assert.deepEqual(bytes, new Uint8Array(length).fill(id))
    assert.ok(bytes.buffer instanceof ArrayBuffer)
    assert.equal('id' in rest, false)
  }
  assert.deepEqual(used, [0, 1, 2, 3])
})
