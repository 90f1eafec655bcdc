import assert from 'node:assert/strict'
import { describe, it } from 'node:test'
import { BufferPool } from '../../../shared/link/buffer-pool.ts'

const BLOCK = 400_000

describe('a pool of buffers', () => {
  it('gives memory again that was given back, the last one first, and never one that is in use', () => {
    const pool = new BufferPool()
    const [a, b, c] = [pool.take(BLOCK), pool.take(BLOCK), pool.take(BLOCK)]
    assert.equal(new Set([a.buffer, b.buffer, c.buffer]).size, 3)
    pool.give(a)
    pool.give(c)
    assert.equal(pool.take(BLOCK).buffer, c.buffer)
    assert.equal(pool.take(BLOCK - 200).buffer, a.buffer)
    assert.notEqual(pool.take(BLOCK).buffer, b.buffer)
  })

  it('gives as many bytes as were asked for, out of no more than twice as many', () => {
    const pool = new BufferPool()
    const large = pool.take(BLOCK)
    pool.give(large)
    assert.notEqual(pool.take(BLOCK / 4).buffer, large.buffer)
    assert.notEqual(pool.take(2 * BLOCK).buffer, large.buffer)
    const again = pool.take(BLOCK - 1000)
    assert.equal(again.buffer, large.buffer)
    assert.equal(again.length, BLOCK - 1000)
  })

  it('shares what is large and does not keep what is small', () => {
    const pool = new BufferPool()
    assert.ok(pool.take(BLOCK).buffer instanceof SharedArrayBuffer)
    const small = pool.take(100)
    assert.ok(small.buffer instanceof ArrayBuffer)
    pool.give(small)
    assert.notEqual(pool.take(100).buffer, small.buffer)
  })

  it('forgets what it keeps', () => {
    const pool = new BufferPool()
    const block = pool.take(BLOCK)
    pool.give(block)
    pool.clear()
    assert.notEqual(pool.take(BLOCK).buffer, block.buffer)
  })
})
