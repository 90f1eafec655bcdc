import assert from 'node:assert/strict'
import { test } from 'node:test'
import { freeNow } from '../../worker/free-now.ts'

const MIB = 2 ** 20

test('a buffer that is freed has no bytes, and the process does not hold them any more', () => {
  const buffers = Array.from({ length: 16 }, () => new Uint8Array(4 * MIB).fill(1))
  const before = process.memoryUsage().arrayBuffers
  for (const { buffer } of buffers) freeNow(buffer)
  assert.ok(before - process.memoryUsage().arrayBuffers >= 64 * MIB)
  assert.ok(buffers.every(({ byteLength }) => byteLength === 0))
})
